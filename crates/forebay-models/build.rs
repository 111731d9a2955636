//! Sets the condition under which the sources are compiled for the checker.

fn main() {
    println!("cargo::rustc-cfg=models");
    println!("cargo::rerun-if-changed=build.rs");
}
