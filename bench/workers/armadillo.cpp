// EM of Armadillo's gmm_full and gmm_diag from a given start, for `armadillo.py` to call.
//
// Rows lie as (n, d) in C order, which Armadillo reads as its (d, n) matrix of columns without a copy. Parameters are
// read and overwritten: weights (k), means (k, d), covariances (k, d, d) or (k, d).

#include <armadillo>
#include <chrono>
#include <cstring>
#include <sstream>
#include <string>

namespace {

template <typename Model>
int learn(Model& model, const arma::mat& rows, int k, int n_iter, double* seconds) {
    // Armadillo does not return how many iterations it did, but reports each on its stream.
    std::ostringstream report;
    std::ostream& before = arma::get_cout_stream();
    arma::set_cout_stream(report);
    const auto began = std::chrono::steady_clock::now();
    const bool sound = model.learn(rows, k, arma::eucl_dist, arma::keep_existing, 0, n_iter, 0.0, true);
    *seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    arma::set_cout_stream(before);
    if (!sound) return -1;
    const std::string text = report.str(), mark = "EM: iteration:";
    int done = 0;
    for (auto at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1)) ++done;
    return done;
}

template <typename Model>
void write(const Model& model, double* weights, double* means) {
    std::memcpy(weights, model.hefts.memptr(), model.hefts.n_elem * sizeof(double));
    std::memcpy(means, model.means.memptr(), model.means.n_elem * sizeof(double));
}

}  // namespace

extern "C" {

const char* version() {
    static const std::string text = arma::arma_version::as_string();
    return text.c_str();
}

// Return the number of iterations done, or -1 if Armadillo gave up.
int learn_full(double* x, int n, int d, int k, int n_iter, double* weights, double* means, double* covariances,
               double* seconds) {
    const arma::mat rows(x, d, n, false, true);
    arma::gmm_full model;
    model.set_params(arma::mat(means, d, k), arma::cube(covariances, d, d, k), arma::rowvec(weights, k));
    const int done = learn(model, rows, k, n_iter, seconds);
    write(model, weights, means);
    std::memcpy(covariances, model.fcovs.memptr(), model.fcovs.n_elem * sizeof(double));
    return done;
}

int learn_diag(double* x, int n, int d, int k, int n_iter, double* weights, double* means, double* covariances,
               double* seconds) {
    const arma::mat rows(x, d, n, false, true);
    arma::gmm_diag model;
    model.set_params(arma::mat(means, d, k), arma::mat(covariances, d, k), arma::rowvec(weights, k));
    const int done = learn(model, rows, k, n_iter, seconds);
    write(model, weights, means);
    std::memcpy(covariances, model.dcovs.memptr(), model.dcovs.n_elem * sizeof(double));
    return done;
}

}  // extern "C"
