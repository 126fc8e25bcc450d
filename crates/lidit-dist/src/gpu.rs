//! What this host has of NVIDIA's software, asked without linking to any of it: a binary without CUDA can answer, too.
#![expect(
    unsafe_code,
    reason = "dlopen and C functions of NVIDIA's libraries; each block says what it relies on"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// NVIDIA's driver, and what it drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it runs, 1000 times the major version and 10 times the minor one: 13000.
    pub cuda_version: i32,
    /// The GPUs that this process sees, in CUDA's order.
    pub gpus: Vec<Gpu>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its model.
    pub name: String,
    /// Its memory, in bytes.
    pub memory: u64,
}

/// The driver and its GPUs, or why there are none.
pub fn driver() -> Result<Driver, String> {
    driver_of(&["libcuda.so", "libcuda.so.1"])
}

/// Version of NVRTC, which compiles the kernels when they first run: `(13, 0)`.
pub fn nvrtc_version() -> Result<(i32, i32), String> {
    let names = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];
    let library = Library::open(&names)?;
    // SAFETY: `nvrtcResult nvrtcVersion(int *major, int *minor)` in every version of the library.
    let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = unsafe { library.function("nvrtcVersion")? };
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two integers to write to.
    check("nvrtcVersion", unsafe { version(&raw mut major, &raw mut minor) })?;
    Ok((major, minor))
}

/// Version of NCCL: 23007 is 2.30.7.
pub fn nccl_version() -> Result<i32, String> {
    // Not `libnccl.so.2`: the binding of NCCL does not look for that name.
    let library = Library::open(&["libnccl.so"])?;
    // SAFETY: `ncclResult_t ncclGetVersion(int *version)` in every version of the library.
    let version: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { library.function("ncclGetVersion")? };
    let mut number = 0;
    // SAFETY: an integer to write to.
    check("ncclGetVersion", unsafe { version(&raw mut number) })?;
    Ok(number)
}

fn driver_of(names: &[&str]) -> Result<Driver, String> {
    type Init = unsafe extern "C" fn(u32) -> c_int;
    type Number = unsafe extern "C" fn(*mut c_int) -> c_int;
    type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
    type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
    type Memory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
    let library = Library::open(names)?;
    // SAFETY: these functions have these types in every version of the driver's interface since CUDA 3.2.
    let (init, version, count, get, name_of, memory_of): (Init, Number, Number, Get, Name, Memory) = unsafe {
        (
            library.function("cuInit")?,
            library.function("cuDriverGetVersion")?,
            library.function("cuDeviceGetCount")?,
            library.function("cuDeviceGet")?,
            library.function("cuDeviceGetName")?,
            library.function("cuDeviceTotalMem_v2")?,
        )
    };
    let (mut cuda_version, mut number) = (0, 0);
    // SAFETY: `cuInit` takes 0 and comes before all others; the others write one integer each.
    unsafe {
        check("cuInit", init(0))?;
        check("cuDriverGetVersion", version(&raw mut cuda_version))?;
        check("cuDeviceGetCount", count(&raw mut number))?;
    }
    let mut gpus = Vec::new();
    for ordinal in 0..number {
        let (mut device, mut memory, mut name): (c_int, usize, [c_char; 128]) = (0, 0, [0; 128]);
        // SAFETY: the buffers outlive the calls, the name's length is its own less a byte that stays 0.
        unsafe {
            check("cuDeviceGet", get(&raw mut device, ordinal))?;
            check("cuDeviceGetName", name_of(name.as_mut_ptr(), 127, device))?;
            check("cuDeviceTotalMem", memory_of(&raw mut memory, device))?;
        }
        // SAFETY: at least the last byte is 0.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        gpus.push(Gpu {
            name: name.to_string_lossy().into_owned(),
            memory: memory as u64,
        });
    }
    Ok(Driver { cuda_version, gpus })
}

fn check(function: &str, code: c_int) -> Result<(), String> {
    match code {
        0 => Ok(()),
        code => Err(format!("{function} answers error {code}")),
    }
}

/// A shared library, open as long as the process lives: CUDA's can't be closed safely.
struct Library(*mut c_void);

impl Library {
    fn open(names: &[&str]) -> Result<Self, String> {
        for name in names {
            let name = CString::new(*name).map_err(|error| error.to_string())?;
            // SAFETY: a name that ends with 0. Whoever can put a file into the library path runs code here anyway.
            let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if !handle.is_null() {
                return Ok(Self(handle));
            }
        }
        Err(format!("{} is not in the library path", names.join(" or ")))
    }

    /// The function `name`.
    ///
    /// # Safety
    /// `F` is the type of a pointer to that function.
    unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, String> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let symbol = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the handle is open, and the name ends with 0.
        let address = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        if address.is_null() {
            return Err(format!("its library has no {name}: it is too old, or something else"));
        }
        // SAFETY: the caller says that `F` is a pointer to this function; sizes are compared above.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    const FAKE: &str = "#include <stddef.h>\n#include <string.h>\n\
        int cuInit(unsigned flags) { return flags != 0; }\n\
        int cuDriverGetVersion(int *version) { *version = 13010; return 0; }\n\
        int cuDeviceGetCount(int *count) { *count = 2; return 0; }\n\
        int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }\n\
        int cuDeviceGetName(char *name, int length, int device) { strncpy(name, device == 40 ? \"first\" : \"second\", length); return 0; }\n\
        int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)device << 30; return 0; }\n";

    #[test]
    fn a_driver_is_asked_for_its_gpus() {
        let dir = std::env::temp_dir().join(format!("lidit-fake-driver-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (source, library) = (dir.join("fake.c"), dir.join("libfake.so"));
        std::fs::write(&source, FAKE).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .status();
        let found = compiled
            .is_ok_and(|status| status.success())
            .then(|| driver_of(&[library.to_str().unwrap()]));
        std::fs::remove_dir_all(&dir).unwrap();
        let Some(found) = found else {
            println!("skipped: there is no C compiler");
            return;
        };
        let gpu = |name: &str, gib: u64| Gpu {
            name: name.into(),
            memory: gib << 30,
        };
        let expected = Driver {
            cuda_version: 13_010,
            gpus: vec![gpu("first", 40), gpu("second", 41)],
        };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = driver_of(&["libnowhere.so", "libnowhere.so.1"]).unwrap_err();
        assert_eq!(missing, "libnowhere.so or libnowhere.so.1 is not in the library path");
        // A library that is none of NVIDIA's.
        let other = driver_of(&["libc.so.6"]).unwrap_err();
        assert!(other.contains("cuInit"), "{other}");
    }
}
