//! A short soak, so that it does not rot. It proves little of memory, and all of the rest as far as some seconds can.

use std::process::Command;

#[test]
fn a_short_soak_ends_well() {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay-soak"))
        .args(["--minutes", "0.35", "--rest-every-s", "7", "--seed", "1"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.matches(" min: ").count() >= 3, "it rests: {said}");
}
