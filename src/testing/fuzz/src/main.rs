//! libFuzzer over one target of the table, which the environment names:
//! `CORELINE_FUZZ_TARGET=journal fuzz CORPUS`, or `CORELINE_FUZZ_SEEDS=DIRECTORY fuzz` to write the seeds and end.
#![no_main]

mod seeds;
mod targets;

use std::sync::OnceLock;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

fn begin() {
    if let Some(directory) = std::env::var_os("CORELINE_FUZZ_SEEDS") {
        write_seeds(std::path::Path::new(&directory)).expect("the directory of the seeds can be written");
        std::process::exit(0);
    }
    let wanted = std::env::var("CORELINE_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = targets::TARGETS.iter().map(|t| t.name).collect();
    match targets::TARGETS.iter().find(|t| t.name == wanted) {
        Some(target) => {
            let _ = TARGET.set(*target);
        }
        None => {
            eprintln!("CORELINE_FUZZ_TARGET is \"{wanted}\", expected one of {names:?}");
            std::process::exit(2);
        }
    }
}

fn write_seeds(directory: &std::path::Path) -> std::io::Result<()> {
    for target in targets::TARGETS {
        let corpus = directory.join(target.name).join("corpus");
        std::fs::create_dir_all(&corpus)?;
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(corpus.join(format!("seed-{n:04}")), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}

libfuzzer_sys::fuzz_target!(init: begin(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(data);
    }
});
