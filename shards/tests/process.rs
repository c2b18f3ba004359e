//! What only a process of its own can show: a panic ends it, signals stop it. The test binary runs itself.
#![cfg(feature = "uring")]

use coreline_io::{Clock, TaskGroup, Tasks};
use coreline_shards::glommio_backend::{ShardsOptions, run};
use coreline_shards::{CoreSelection, MeshProtocol, install_panic_hook, signals};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const ROLE: &str = "CORELINE_TEST_ROLE";

struct Nothing;

impl MeshProtocol for Nothing {
    type Request = ();
    type Reply = ();
    type Event = ();
}

/// Runs only the test `child` of this binary, in `role`.
fn start(role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(mut child: Child) -> (ExitStatus, String) {
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (child.wait().unwrap(), stderr)
}

fn wait_for_line(child: &mut Child, line: &str) {
    let stdout = BufReader::new(child.stdout.as_mut().unwrap());
    assert!(stdout.lines().any(|l| l.unwrap().contains(line)), "the child never said {line}");
}

fn signal(child: &Child, signal: i32) {
    let status = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Does nothing unless started by another test here.
#[test]
fn child() {
    let role = std::env::var(ROLE).unwrap_or_default();
    match role.as_str() {
        "" => {}
        "panic" | "panic-without-hook" => {
            if role == "panic" {
                install_panic_hook();
            }
            let options = ShardsOptions { cores: CoreSelection::Count(1), ..ShardsOptions::default() };
            let ended = run::<Nothing, _, _, ()>(options, |ctx| async move {
                // In a task nobody waits for: the worst place.
                let _detached = ctx.runtime.spawn(TaskGroup::Background, "doomed", async {
                    panic!("on purpose");
                });
                ctx.shutdown.requested().await;
                Ok(())
            });
            println!("the process survived: {ended:?}");
        }
        "stop" | "stubborn" => {
            let options = ShardsOptions::default();
            let shutdown = options.shutdown.clone();
            signals::on_terminate(move || shutdown.request()).unwrap();
            let stubborn = role == "stubborn";
            run::<Nothing, _, _, ()>(options, move |ctx| async move {
                if ctx.shard.0 == 0 {
                    println!("up");
                }
                ctx.shutdown.requested().await;
                if ctx.shard.0 == 0 {
                    println!("stopping");
                }
                if !stubborn {
                    return Ok(());
                }
                loop {
                    ctx.runtime.sleep(Duration::from_secs(1)).await;
                }
            })
            .unwrap();
            println!("stopped in order");
        }
        other => panic!("no such role: {other}"),
    }
}

#[test]
fn a_panic_in_a_shard_ends_the_process() {
    let (status, stderr) = finish(start("panic"));
    assert_eq!(status.signal(), Some(6), "expected SIGABRT, got {status}: {stderr}");
    assert!(stderr.contains("panic in thread coreline-shard-0 at shards/tests/process.rs:"), "{stderr}");
    assert!(stderr.contains("on purpose"), "{stderr}");
}

#[test]
fn a_panic_ends_the_process_even_without_the_hook() {
    let (status, stderr) = finish(start("panic-without-hook"));
    assert_eq!(status.signal(), Some(6), "expected SIGABRT, got {status}: {stderr}");
}

#[test]
fn sigterm_and_sigint_stop_in_order() {
    for number in [15, 2] {
        let mut child = start("stop");
        wait_for_line(&mut child, "up");
        signal(&child, number);
        wait_for_line(&mut child, "stopped in order");
        let (status, stderr) = finish(child);
        assert!(status.success(), "{status}: {stderr}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut child = start("stubborn");
    wait_for_line(&mut child, "up");
    signal(&child, 15);
    wait_for_line(&mut child, "stopping");
    signal(&child, 15);
    let (status, stderr) = finish(child);
    assert_eq!(status.signal(), Some(15), "{status}: {stderr}");
}
