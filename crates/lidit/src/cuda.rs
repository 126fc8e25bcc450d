//! How the CUDA runtime is set up before its first use, so that no file of its own is needed.

use cubecl::config::CubeClRuntimeConfig;
use cubecl::config::RuntimeConfig as _;
use cubecl::config::cache::CacheConfig;

/// Keeps compiled kernels and the choices of autotune under lidit's cache folder: a second run starts with them, and the
/// ranks of a host share them. What a `cubecl.toml` in or above the working folder and `CUBECL_*` variables say goes first.
pub fn configure() {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if let (CacheConfig::Target, Ok(folder)) = (&config.environment.path, lidit_train::cache::dir()) {
        // Its own default is a `target` folder beside any Cargo.toml above.
        config.environment.path = CacheConfig::Directory(folder.join("cuda"));
    }
    // Already set: a device was opened before.
    let _ = CubeClRuntimeConfig::try_set(config);
}
