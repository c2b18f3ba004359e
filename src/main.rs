//! The `coreline` binary: a thin door to [`coreline::cli`].

#[global_allocator]
static ALLOCATOR: coreline_io::CountingAllocator = coreline_io::CountingAllocator;

fn main() -> std::process::ExitCode {
    coreline::cli::main()
}
