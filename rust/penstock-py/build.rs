//! Refuses to build a package without its kernels.
//!
//! `python/penstock/kernels` and `pipelines` are symbolic links. A zip download of the repository, or a
//! checkout without link support, turns them into text files, and the wheel would lack both in silence.

fn main() {
    let package = std::path::Path::new("../../python/penstock");
    for file in ["kernels/registry.py", "pipelines/runner.py"] {
        println!("cargo::rerun-if-changed={}", package.join(file).display());
        if !package.join(file).is_file() {
            println!(
                "cargo::error=python/penstock/{file} is not a file: the symbolic links in python/penstock \
                 are missing. Clone the repository with git instead of downloading a zip (on Windows with \
                 `git clone -c core.symlinks=true`)."
            );
        }
    }
}
