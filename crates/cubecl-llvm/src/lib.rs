//! Stand-in for `cubecl-llvm`: the names `cubecl-cuda` needs, without LLVM. The README beside it says why.
//!
//! Kernels are compiled by cubecl's other compiler (CUDA C++ through NVRTC); asked to compile, this one returns an error.

use std::convert::Infallible;
use std::fmt;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::{CompilationError, Compiler};
use cubecl_runtime::kernel::BufferIOAttr;

use crate::nvptx::ptx_version::PtxVersion;

/// Names of upstream's module for NVIDIA devices.
pub mod nvptx {
    /// Names of upstream's module for versions of PTX.
    pub mod ptx_version {
        use std::fmt;

        /// The version of PTX to emit; never chosen here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(std::convert::Infallible);

        impl PtxVersion {
            /// Always `None`: nothing is emitted.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {}
            }
        }
    }
}

/// Names of upstream's module for what all targets share.
pub mod shared {
    /// Names of upstream's module for narrowing a device's features.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// The device whose features would be narrowed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA.
            Nvptx,
        }

        /// Does nothing: upstream takes away what its LLVM backend can't lower, and that backend is not here.
        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

/// What upstream compiles for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA devices.
    #[default]
    Nvptx,
}

/// Upstream's compiler, which here refuses to compile.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

/// Upstream's compiler options, as far as `cubecl-cuda` sets them.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// An AMD architecture: never.
    pub arch: Option<Infallible>,
    /// The NVIDIA architecture.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX.
    pub ptx_version: Option<PtxVersion>,
    /// Whether scalars travel in the kernel's parameter block.
    pub grid_constants: bool,
}

/// A compiled PTX module; the stand-in never makes one.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// PTX text, ending in NUL.
    pub ptx: Vec<core::ffi::c_char>,
    /// Text for logs.
    pub ir: String,
    /// Bytes of shared memory a launch needs.
    pub shared_memory_size: usize,
    /// How each buffer is used.
    pub io: Vec<BufferIOAttr>,
    /// Keeps the type without values.
    pub never: Infallible,
}

/// What a compilation gives.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// For NVIDIA devices.
    NvptxCode(NvptxModule),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NvptxCode(module) = self;
        f.write_str(&module.ir)
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(
        &mut self,
        _kernel: KernelDefinition,
        _options: &Self::CompilationOptions,
    ) -> Result<Self::Representation, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this binary was built without LLVM: build cubecl with its feature cuda-cpp, so that kernels go through NVRTC".into(),
            backtrace: BackTrace::capture(),
        })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
