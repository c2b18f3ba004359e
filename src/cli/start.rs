//! `coreline start`: one node on this host.

use crate::broker::fatal::{ExitReason, end_process};
use crate::broker::messages::BrokerMesh;
use crate::broker::metrics::ProcessUsage;
use crate::broker::server::{Node, Ready, ServerError, run_shard};
use crate::config::{BrokerConfig, CoreChoice, PollChoice, parse_override, parse_properties};
use crate::log::log_config::Durability;
use coreline_io::uring::{
    Polling, UringOptions, check_directory, check_host, give_back_freed_memory, keep_freed_memory, raise_open_files,
};
use coreline_shards::glommio_backend::{self, ShardsError, ShardsOptions};
use coreline_shards::{Blocking, CoreSelection, ShutdownHandle, install_panic_hook, signals};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How to run a node. With no argument: 127.0.0.1:9092, data in ./data, all cores.
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// A file in the format of Kafka's server.properties.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A setting that goes before the file; may be repeated.
    #[arg(long = "override", value_name = "KEY=VALUE", value_parser = parse_override)]
    pub overrides: Vec<(String, String)>,
}

fn fail(reason: ExitReason, message: &str) -> ExitCode {
    super::say_why(message);
    ExitCode::from(reason.code())
}

/// Runs the node until it is asked to stop.
#[must_use]
pub fn run(args: &StartArgs) -> ExitCode {
    let mut config = match read_config(args) {
        Ok(config) => config,
        Err(message) => return fail(ExitReason::Configuration, &message),
    };
    if let Err(problem) = check_host() {
        return fail(ExitReason::Host, &problem.to_string());
    }
    if let Err(cause) = std::fs::create_dir_all(&config.data_dir) {
        let message = format!(
            "data directory {} cannot be made: {cause}; choose another with --override log.dirs=DIR",
            config.data_dir.display()
        );
        return fail(ExitReason::DataDirectory, &message);
    }
    let direct = check_directory(&config.data_dir);
    if let Err(problem @ coreline_io::uring::HostProblem::Directory { .. }) = &direct {
        return fail(ExitReason::DataDirectory, &format!("{problem}; choose another with --override log.dirs=DIR"));
    }
    if let Err(problem) = &direct {
        tracing::warn!("{problem}; running buffered: for trials only");
    }
    let cores = match &config.cores {
        CoreChoice::All => CoreSelection::All,
        CoreChoice::Count(count) => CoreSelection::Count(*count),
        CoreChoice::List(cores) => CoreSelection::List(cores.clone()),
    };
    let shards = match cores.resolve() {
        Ok(cores) => cores.len(),
        Err(error) => return fail(ExitReason::Configuration, &format!("coreline.cores: {error}")),
    };
    share_descriptors(&mut config, raise_open_files(), shards);
    keep_freed_memory();
    install_panic_hook();
    serve(&Arc::new(config), cores, shards, direct.is_err())
}

/// Descriptors that are neither connections nor segments: rings, journals, the node's own files.
const DESCRIPTORS_OF_NODE: u64 = 64;
const DESCRIPTORS_OF_SHARD: u64 = 64;
/// Below this a node is worth a warning.
const DESCRIPTORS_FEW: u64 = 8192;

/// Keeps files and connections below the process's limit of descriptors: a segment that cannot be opened would end the
/// node. As many again as a shard keeps open may be in use while they leave its cache.
fn share_descriptors(config: &mut BrokerConfig, limit: u64, shards: usize) {
    let shards = shards as u64;
    let free = limit.saturating_sub(DESCRIPTORS_OF_NODE + DESCRIPTORS_OF_SHARD * shards);
    let files = (config.open_files as u64).min(free / 3 / shards).max(1);
    let connections = free.saturating_sub(2 * files * shards).max(1);
    if limit < DESCRIPTORS_FEW {
        tracing::warn!(
            limit,
            files_a_shard = files,
            connections,
            "few descriptors: raise the limit (`ulimit -Hn` of the shell, LimitNOFILE= of a systemd unit)"
        );
    }
    config.open_files = usize::try_from(files).unwrap_or(usize::MAX);
    config.connections_max = config.connections_max.min(usize::try_from(connections).unwrap_or(usize::MAX));
}

/// How long glommio polls its rings before it sleeps, on dedicated cores: longer than any operation of a disk takes.
const DEDICATED_SPIN: Duration = Duration::from_millis(100);

/// Threads that compress batches anew, at most: one for each core, as long as there are not many.
const HELPERS_MAX: usize = 16;

fn serve(config: &Arc<BrokerConfig>, cores: CoreSelection, shards: usize, allow_buffered: bool) -> ExitCode {
    let shutdown = ShutdownHandle::new();
    let asked = shutdown.clone();
    if let Err(cause) = signals::on_terminate(move || asked.request()) {
        return fail(ExitReason::Host, &format!("cannot wait for signals: {cause}"));
    }
    let polling = match config.poll {
        PollChoice::Never => Polling::Never,
        PollChoice::Adaptive => Polling::Adaptive,
        PollChoice::Dedicated => Polling::Dedicated,
    };
    let options = ShardsOptions {
        cores,
        shutdown,
        // Where the rings have something under way it is glommio that polls.
        spin: (polling == Polling::Dedicated).then_some(DEDICATED_SPIN),
        runtime: UringOptions { allow_buffered, data_dir: Some(config.data_dir.clone()), polling },
        ..ShardsOptions::default()
    };
    let told = config.clone();
    let mut node = Node::new(config.clone(), Arc::new(end_process), Arc::new(move |ready| announce(&told, ready)));
    node.process = Some(process_usage);
    node.tune_store = Some(Arc::new(|options| options.give_back_memory = Some(give_back_freed_memory)));
    match Blocking::new(shards.clamp(1, HELPERS_MAX)) {
        Ok(helpers) => node.helpers = helpers,
        Err(cause) => return fail(ExitReason::Host, &format!("cannot start helper threads: {cause}")),
    }
    let ran = glommio_backend::run::<BrokerMesh, _, _, ServerError>(options, move |ctx| run_shard(ctx, node.clone()));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(ShardsError::Main { error, .. }) => fail(error.reason, &error.message),
        Err(ShardsError::Cores(error)) => fail(ExitReason::Configuration, &format!("coreline.cores: {error}")),
        Err(error) => fail(ExitReason::Host, &error.to_string()),
    }
}

/// What this process needs, as the system says it; what cannot be read is 0.
fn process_usage() -> ProcessUsage {
    let used = coreline_io::uring::process_usage();
    ProcessUsage {
        resident_bytes: used.resident_bytes,
        cpu_seconds: used.cpu.as_secs_f64(),
        open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64),
    }
}

/// The one line of standard output: a script may wait for it.
fn announce(config: &BrokerConfig, ready: &Ready) {
    let durability = match config.durability {
        Durability::Durable => "durable",
        Durability::Written => "written",
    };
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "coreline {} ready on {} cores={} data={} durability={durability} cluster={}{}",
        env!("CARGO_PKG_VERSION"),
        ready.address,
        ready.shards,
        config.data_dir.display(),
        ready.cluster_id,
        ready.metrics.map_or_else(String::new, |address| format!(" metrics={address}")),
    );
    let _ = out.flush();
}

fn read_config(args: &StartArgs) -> Result<BrokerConfig, String> {
    let mut settings = Vec::new();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        settings = parse_properties(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    settings.extend(args.overrides.iter().cloned());
    BrokerConfig::from_settings(settings).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\ncoreline: ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out_below_the_limit() {
        let table = [(1_048_576, 2, 4096), (20_000, 64, 82), (4096, 2, 650), (1024, 1, 298), (256, 1, 42), (64, 4, 1)];
        for (limit, shards, files) in table {
            let mut config = BrokerConfig::default();
            share_descriptors(&mut config, limit, shards);
            assert_eq!(config.open_files, files, "{limit} for {shards}");
            assert!(config.connections_max >= 1);
            if limit > 256 {
                let used = 64 + 64 * shards + 2 * config.open_files * shards + config.connections_max;
                assert!(used as u64 <= limit, "{used} of {limit}");
            }
        }
        let settings = [("max.connections".to_owned(), "10".to_owned())];
        let mut config = BrokerConfig::from_settings(settings).expect("valid");
        share_descriptors(&mut config, 1_048_576, 2);
        assert_eq!(config.connections_max, 10, "a lower setting stands");
    }
}
