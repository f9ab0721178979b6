//! Looks into model directories: lists, shows, checks, draws, exports and prunes their checkpoints, of any model.

mod export;
mod ls;
mod output;
mod plot;
mod prune;
mod select;
mod show;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use output::{Outcome, shown};

/// Lists, shows, checks, draws, exports and prunes the checkpoints of a model directory.
///
/// Exits with 0; 1 when it fails or finds damage; 2 when its arguments are wrong. Only `prune` writes into the directory.
#[derive(Parser)]
#[command(name = "elistimator", version)]
struct Args {
    /// Prints JSON, for scripts.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(ls::Args),
    Show(show::Args),
    Verify(verify::Args),
    Plot(plot::Args),
    Export(export::Args),
    Prune(prune::Args),
}

impl Command {
    fn run(&self) -> elistimator::Result<Outcome> {
        match self {
            Self::Ls(args) => args.run(),
            Self::Show(args) => args.run(),
            Self::Verify(args) => args.run(),
            Self::Plot(args) => args.run(),
            Self::Export(args) => args.run(),
            Self::Prune(args) => args.run(),
        }
    }
}

/// The library's warnings, one line each: what it left out, and why.
struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            complain(&format!("warning: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// One line on standard error; there is nowhere left to report that it is closed.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "elistimator: {}", shown(message));
}

fn main() -> ExitCode {
    let args = Args::parse();
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    let outcome = match args.command.run() {
        Ok(outcome) => outcome,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let text = if args.json { format!("{:#}\n", outcome.json) } else { outcome.text };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        // The reader has seen enough: `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            complain(&format!("cannot write to standard output: {error}"));
            return ExitCode::FAILURE;
        }
    }
    if outcome.found_damage { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
