//! The binary; see the library for the tour.

fn main() -> std::process::ExitCode {
    sidecar::cli::main()
}
