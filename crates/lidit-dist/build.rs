//! Compiles the C++ shim over Gloo, when the feature `gloo` asks for it.

fn main() {
    #[cfg(feature = "gloo")]
    gloo();
}

/// Needs a C++ compiler and Gloo's headers (Debian and Ubuntu: `libgloo-dev`).
#[cfg(feature = "gloo")]
fn gloo() {
    const SHIM: [&str; 2] = ["shim/gloo_shim.cc", "shim/gloo_shim.h"];
    for file in SHIM {
        println!("cargo:rerun-if-changed={file}");
    }
    let built = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings_into_errors(false)
        .file(SHIM[0])
        .try_compile("lidit_gloo_shim");
    if let Err(error) = built {
        eprintln!("feature `gloo` needs a C++ compiler and Gloo's headers: apt-get install g++ libgloo-dev\n{error}");
        std::process::exit(1);
    }
    println!("cargo:rustc-link-lib=dylib=gloo");
}
