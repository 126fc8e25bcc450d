//! The driver and the libraries that a run on GPUs needs.

use std::path::{Path, PathBuf};

use lidit_dist::gpu::{self, Driver};

use super::check::Check;
use crate::device::DeviceArg;

/// What kernels include; NVRTC does not bring it.
const HEADER: &str = "include/cuda_fp16.h";
/// The oldest driver for the CUDA that the binary speaks.
const OLDEST_CUDA: i32 = 12_000;

/// What a run on `device` needs; one line where that is the CPU.
pub fn checks(device: DeviceArg, local_rank: usize, world_size: usize) -> Vec<Check> {
    if device == DeviceArg::Cpu {
        return vec![Check::ok("device", "cpu (--device cuda looks at GPUs)")];
    }
    let mut checks = Vec::new();
    if !cfg!(feature = "cuda") {
        let advice = "build one with `bash launch/build-cuda.sh`";
        checks.push(Check::failed("device", "this lidit was built without CUDA", advice));
    }
    checks.push(driver(gpu::driver(), ordinal(device, local_rank)));
    checks.push(match gpu::nvrtc_version() {
        Ok((major, minor)) => Check::agreed("nvrtc", format!("{major}.{minor}")),
        Err(problem) => Check::failed(
            "nvrtc",
            problem,
            "install CUDA's nvrtc, or put its folder into LD_LIBRARY_PATH",
        ),
    });
    checks.push(headers(cuda_folder()));
    if world_size > 1 {
        checks.push(match gpu::nccl_version() {
            Ok(version) => Check::agreed("nccl", format!("version {version}")),
            Err(problem) => Check::failed(
                "nccl",
                problem,
                "install NCCL 2.18 or newer, the same everywhere (where there is only libnccl.so.2, link libnccl.so to it)",
            ),
        });
    }
    checks
}

/// What is missing here to compute on `device`, and where it was looked for; nothing where all is there. Whoever opens a
/// GPU asks first: what is missing would end the process inside a binding, with less to read.
#[cfg(any(feature = "cuda", test))]
pub fn missing(device: DeviceArg, local_rank: usize) -> Vec<String> {
    let failed = checks(device, local_rank, 1)
        .into_iter()
        .filter(|check| check.status == super::check::Status::Failed);
    failed
        .map(|check| format!("{}: {} ({})", check.name, check.found, check.advice))
        .collect()
}

/// The GPU that a rank takes.
pub fn ordinal(device: DeviceArg, local_rank: usize) -> usize {
    match device {
        DeviceArg::Cuda(Some(index)) => index,
        _ => local_rank,
    }
}

fn driver(found: Result<Driver, String>, ordinal: usize) -> Check {
    let driver = match found {
        Ok(driver) => driver,
        Err(problem) => {
            return Check::failed(
                "driver",
                problem,
                "install NVIDIA's driver, or ask for a node with GPUs",
            );
        }
    };
    let cuda = format!(
        "CUDA {}.{}",
        driver.cuda_version / 1000,
        driver.cuda_version % 1000 / 10
    );
    let count = driver.gpus.len();
    if driver.cuda_version < OLDEST_CUDA {
        return Check::failed(
            "driver",
            format!("up to {cuda}"),
            "install a driver for CUDA 12 or newer",
        );
    }
    match driver.gpus.get(ordinal) {
        Some(gpu) => Check::ok(
            "driver",
            format!(
                "{cuda}, {count} GPUs, this rank's is a {} of {} GiB",
                gpu.name,
                gpu.memory >> 30
            ),
        ),
        None => Check::failed(
            "driver",
            format!("{count} GPUs here, and this rank takes number {ordinal}"),
            "start one rank a GPU, and let each see all of its host's (CUDA_VISIBLE_DEVICES)",
        ),
    }
}

/// Where the kernels' compiler looks for CUDA.
fn cuda_folder() -> Option<PathBuf> {
    match std::env::var_os("CUDA_PATH") {
        Some(folder) => Some(folder.into()),
        // A distribution's own package has nvcc in its path, and the headers beside everybody's.
        None => [
            ("/usr/local/cuda", "/usr/local/cuda"),
            ("/opt/cuda", "/opt/cuda"),
            ("/usr/bin/nvcc", "/usr"),
        ]
        .into_iter()
        .find(|(sign, _)| Path::new(sign).exists())
        .map(|(_, folder)| folder.into()),
    }
}

fn headers(folder: Option<PathBuf>) -> Check {
    let advice = "install CUDA's headers (cuda-cudart-dev, or the wheel nvidia-cuda-runtime) and set CUDA_PATH to the folder above include";
    match folder {
        Some(folder) if folder.join(HEADER).is_file() => Check::ok("cuda headers", folder.display().to_string()),
        Some(folder) => Check::failed(
            "cuda headers",
            format!("there is no {}", folder.join(HEADER).display()),
            advice,
        ),
        None => Check::failed(
            "cuda headers",
            "CUDA_PATH is not set, and there is no /usr/local/cuda, /opt/cuda or /usr/bin/nvcc",
            advice,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;
    use lidit_dist::gpu::Gpu;

    #[test]
    fn a_rank_without_a_gpu_of_its_own_is_told() {
        let host = |cuda_version| Driver {
            cuda_version,
            gpus: vec![
                Gpu {
                    name: "H200".into(),
                    memory: 141 << 30,
                };
                2
            ],
        };
        let good = driver(Ok(host(13_000)), 1);
        assert_eq!(
            (good.status, good.found.as_str()),
            (Status::Ok, "CUDA 13.0, 2 GPUs, this rank's is a H200 of 141 GiB")
        );
        assert_eq!(driver(Ok(host(13_000)), 2).status, Status::Failed);
        assert_eq!(driver(Ok(host(11_080)), 0).status, Status::Failed);
        assert_eq!(driver(Err("no libcuda".into()), 0).found, "no libcuda");
        assert_eq!(headers(Some("/nowhere".into())).status, Status::Failed);
    }
    #[test]
    fn a_missing_driver_is_named_with_where_it_was_looked_for() {
        assert!(missing(DeviceArg::Cpu, 0).is_empty());
        let found = missing(DeviceArg::Cuda(None), 0);
        if gpu::driver().is_err() {
            assert!(
                found.iter().any(|line| line.starts_with("driver: libcuda.so")),
                "{found:?}"
            );
        }
        // No GPU has this number.
        let far = missing(DeviceArg::Cuda(Some(4096)), 0);
        assert!(
            far.iter()
                .any(|line| line.starts_with("driver: ") && line.contains('(')),
            "{far:?}"
        );
    }
}
