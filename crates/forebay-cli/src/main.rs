//! The program `forebay`: see `forebay --help`.

fn main() -> std::process::ExitCode {
    forebay_cli::log_to_stderr();
    let code = forebay_cli::run(std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect());
    forebay_cli::end_log();
    code.into()
}
