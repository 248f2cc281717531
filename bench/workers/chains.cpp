// Random-walk Metropolis on a mixture of normals, with the generator and the normals of the standard library.

#include <cmath>
#include <random>
#include <vector>

namespace {

struct Mixture {
    int components, dimensions;
    const double *constants, *means, *factors;

    double log_density(const double *x) const {
        double largest = -INFINITY, total = 0.0;
        for (int c = 0; c < components; ++c) {
            const double *factor = factors + static_cast<long>(c) * dimensions * dimensions;
            const double *mean = means + static_cast<long>(c) * dimensions;
            double square = 0.0;
            for (int i = 0; i < dimensions; ++i) {
                double y = 0.0;
                for (int j = 0; j <= i; ++j) y += factor[i * dimensions + j] * (x[j] - mean[j]);
                square += y * y;
            }
            const double term = constants[c] - 0.5 * square;
            if (term > largest) {
                total = total * std::exp(largest - term) + 1.0;
                largest = term;
            } else {
                total += std::exp(term - largest);
            }
        }
        return largest + std::log(total);
    }
};

}  // namespace

extern "C" long walk(int components, int dimensions, int chains, long steps, unsigned long seed,
                     const double *constants, const double *means, const double *factors, const double *root,
                     double *positions) {
    const Mixture mixture{components, dimensions, constants, means, factors};
    std::vector<double> noise(dimensions), candidate(dimensions);
    long accepted = 0;
    for (int chain = 0; chain < chains; ++chain) {
        std::mt19937_64 generator(seed * 1000003UL + chain);
        std::normal_distribution<double> normal;
        std::uniform_real_distribution<double> uniform;
        double *x = positions + static_cast<long>(chain) * dimensions;
        double current = mixture.log_density(x);
        for (long step = 0; step < steps; ++step) {
            for (double &z : noise) z = normal(generator);
            for (int i = 0; i < dimensions; ++i) {
                candidate[i] = x[i];
                for (int j = 0; j <= i; ++j) candidate[i] += root[i * dimensions + j] * noise[j];
            }
            const double proposed = mixture.log_density(candidate.data());
            if (std::log(uniform(generator)) < proposed - current) {
                for (int i = 0; i < dimensions; ++i) x[i] = candidate[i];
                current = proposed;
                ++accepted;
            }
        }
    }
    return accepted;
}
