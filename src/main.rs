use std::process::ExitCode;

fn main() -> ExitCode {
    selma::cli::main()
}
