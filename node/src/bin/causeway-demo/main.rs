//! The computations of the lab's main job: real programs that a task ships as an input and a region runs.
//!
//! They know nothing of Causeway. Everything is deterministic: a seed gives the same bytes on every machine for `lu` and
//! `infer`; `train` depends on the platform's `tanh` in its last digits. Who checks the results (`node::lab::check`)
//! shares no code with this program.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

mod data;
mod infer;
mod lu;
mod noise;
mod train;

/// Computations to try a ring with.
#[derive(Parser)]
#[command(name = "causeway-demo", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Solve a dense FP64 system by LU with partial pivoting; writes solution.bin and residual.json
    Lu {
        /// Order of the system
        #[arg(long, default_value_t = 3200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
        n: u32,
        /// Which system
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// Folder to write into
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
    /// Train a small network on a CSV of x,y,label; writes model.json and losses.csv
    Train {
        /// The data set
        #[arg(long, default_value = "data.csv")]
        data: PathBuf,
        /// Passes over the data at most
        #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        epochs: u32,
        /// Stop at this mean loss; exit code 1 if it is not reached
        #[arg(long, default_value_t = 0.0005)]
        target_loss: f64,
        /// First weights and order of the batches
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// Folder to write into
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
    /// Run a fixed INT8 network over a batch of rows; writes logits.bin and labels.json
    Infer {
        /// Rows of 256 signed bytes
        #[arg(long, default_value = "batch.bin")]
        batch: PathBuf,
        /// Which network
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// Folder to write into
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
    /// Write the data set of `train`: two spirals
    MakeData {
        /// Points in each spiral
        #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        points: u32,
        /// Which noise
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// The file
        #[arg(long, default_value = "data.csv")]
        out: PathBuf,
    },
    /// Write the input of `infer`
    MakeBatch {
        /// Rows
        #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rows: u32,
        /// Which rows
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// The file
        #[arg(long, default_value = "batch.bin")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Lu { n, seed, out } => lu::run(n as usize, seed, &out),
        Verb::Train { data, epochs, target_loss, seed, out } => train::run(&data, epochs, target_loss, seed, &out),
        Verb::Infer { batch, seed, out } => infer::run(&batch, seed, &out),
        Verb::MakeData { points, seed, out } => data::write_spirals(points, seed, &out),
        Verb::MakeBatch { rows, seed, out } => data::write_batch(rows, seed, &out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-demo: {error}");
            ExitCode::FAILURE
        }
    }
}
