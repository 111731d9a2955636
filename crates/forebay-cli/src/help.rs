//! `forebay completions` and `forebay man`: what shells and `man` want to know of the command, made from its arguments.

use std::io::Write;
use std::path::PathBuf;

use clap_complete::Shell;
use forebay::{Error, Result};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "For bash: forebay completions bash > /etc/bash_completion.d/forebay")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Print the manual page, or write those of all commands to a directory
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write forebay.1 and one page a command there, such as /usr/local/share/man/man1
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs, command: &mut clap::Command, out: &mut Vec<u8>) {
    clap_complete::generate(args.shell, command, "forebay", out);
}

pub(crate) fn man(args: &ManArgs, command: clap::Command, out: &mut dyn Write) -> Result<()> {
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(command, dir)
            .map_err(|error| Error::io(format!("writing manual pages to {}", dir.display()), error)),
        None => clap_mangen::Man::new(command)
            .render(out)
            .map_err(|error| Error::io("writing the manual page", error)),
    }
}
