"""How to compile what has no closures, and what only compiled functions call.

The latter is linked in by its callers, optimised with the rest and emitted once. Numba would optimise each function by
itself and make machine code of it that nobody runs, and again as a part of every function above it: a seventh of what a
first fit compiles.
"""

from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, PassManager
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

# Steps that look for functions within functions and for arithmetic with whole arrays, which kernels do not have.
_WITHOUT_USE = (InlineClosureLikes, NopythonRewrites)


class _LinkedLibrary(JITCodeLibrary):
    """Code as it was written, without an address."""

    def _optimize_final_module(self) -> None:
        """Leave it to who links this."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def serialize_using_object_code(self) -> Any:
        """What the cache keeps: there is no object code."""
        return self.serialize_using_bitcode()


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerForLinking(NativeLowering):
    """Numba's last step, but for the machine code."""

    _name = "lower_for_linking"

    def run_pass(self, state: Any) -> bool:
        """Lower the function, and let callers find it by an entry that leads nowhere."""
        state.library = library = _LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags = state.flags.copy()
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        described = lowered.fndesc
        entry = _dynfunc.make_function(described.lookup_module(), described.qualname, "", 0, lowered.env, (library,))
        state.targetctx.insert_user_function(entry, described, [library])
        state["cr"] = lowered._replace(cfunc=entry)
        return True


class _ShortLibrary(JITCodeLibrary):
    """Code whose loops are neither unrolled nor doubled for vectors, which is most of what LLVM has to do for some."""

    def add_ir_module(self, ir_module: Any) -> None:
        """Ask for that, in all functions of a module."""
        for function in ir_module.functions:
            if not function.is_declaration:
                function.attributes.add("optsize")
        super().add_ir_module(ir_module)


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerShort(NativeLowering):
    """Numba's last step, for short code."""

    _name = "lower_short"

    def run_pass(self, state: Any) -> bool:
        """Lower the function."""
        state.library = _ShortLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


class KernelCompiler(CompilerBase):
    """Numba's compiler without the steps that would find nothing in a kernel, to be given as `pipeline_class`."""

    _last_step: type = NativeLowering

    def define_pipelines(self) -> list[PassManager]:
        """The usual steps but for those."""
        steps = PassManager("kernel")
        for step, description in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            if step not in _WITHOUT_USE:
                steps.add_pass(self._last_step if step is NativeLowering else step, description)
        steps.finalize()
        return [steps]


class LinkedCompiler(KernelCompiler):
    """The same for functions that only compiled functions call."""

    _last_step = _LowerForLinking


class ShortCompiler(KernelCompiler):
    """The same for functions that run once between two passes: to compile them takes longer than they ever will."""

    _last_step = _LowerShort
