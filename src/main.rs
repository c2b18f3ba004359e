//! The `coreline` binary: a thin door to [`coreline::cli`].

fn main() -> std::process::ExitCode {
    coreline::cli::main()
}
