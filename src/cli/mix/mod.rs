//! `selma mix`: training images between the classes of a data set.

mod filter;
mod generate;
mod train;

use crate::cli::Common;
use crate::error::Result;

/// Draw training images between the classes of a data set (Diff-Mix).
#[derive(clap::Args)]
pub struct Mix {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Train(Box<train::Train>),
    Generate(Box<generate::Generate>),
    Filter(filter::Filter),
}

impl Mix {
    pub fn run(self, common: &Common) -> Result<()> {
        match self.command {
            Command::Train(train) => train.run(common),
            Command::Generate(generate) => generate.run(common),
            Command::Filter(filter) => filter.run(common),
        }
    }
}
