//! `demo --plain`: three nodes with nothing but a VIP, the master dies, and the timeline of what the judges saw.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mfs_ha_lab::judge::analysis::Spread;
use mfs_ha_lab::requirements::require_root;
use mfs_ha_lab::scenario::{Arena, Dice, Finding, Takeover};
use mfs_ha_lab::software::mfsha::{MfsHa, number_at, text_at};
use mfs_ha_lab::software::{Daemon, Software};
use mfs_ha_lab::wait::{end_waits_on_signals, interrupted, observe_for};
use serde_json::{Value, json};

const NODES: usize = 3;
const SETTLE: Duration = Duration::from_secs(30);
const TAKEOVER_LIMIT: Duration = Duration::from_secs(15);
/// How long the winner is watched for a second owner.
const AFTERMATH: Duration = Duration::from_secs(1);
/// Longest advert interval at the timing of the demo: the phase of the death is random within it.
const PHASE: Duration = Duration::from_millis(120);

/// Death of the master to the first ARP answer of the new one, measured in labs of this very shape
/// on two cores; here to give the eye a scale.
const REFERENCE: &[(&str, &str)] = &[
    ("ucarp, 1 s between adverts", "2727 ms"),
    ("keepalived, default of 1 s", "2998 ms"),
    ("keepalived at 0.1 s", "303 ms"),
];

/// One line of a timeline.
#[derive(Debug)]
struct Step {
    at: Duration,
    what: String,
}

#[derive(Debug)]
struct Run {
    failed: usize,
    takeover: Takeover,
    steps: Vec<Step>,
    finding: Finding,
}

pub(crate) fn run(software: Software, runs: u32, as_json: bool) -> Result<ExitCode> {
    require_root()?;
    software.check_installed()?;
    end_waits_on_signals()?;
    let say = |text: String| {
        if !as_json {
            println!("{text}");
        }
    };
    let mut dice = Dice::from_environment()?;
    let seed = dice.seed();
    let arena = Arena::new(NODES)?;
    say(format!(
        "{NODES} nodes with {} on one bridge; the judge asks for the VIP every 5 ms (phases from MFS_HA_SEED={seed})",
        software.name()
    ));
    let mut done = Vec::new();
    let outcome = (|| {
        let mut daemons: Vec<Option<Daemon>> = arena
            .topology()
            .nodes()
            .iter()
            .map(|node| Daemon::start(arena.topology(), node.index, software, false).map(Some))
            .collect::<Result<_>>()?;
        for number in 1..=runs {
            let run = one_death(&arena, &mut daemons, software, &mut dice)?;
            say(timeline(number, &run));
            done.push(run);
        }
        Ok::<(), anyhow::Error>(())
    })();
    if outcome.is_err() && !interrupted() {
        arena.topology().keep_directory();
    }
    outcome?;
    let summary = summary(software, &done);
    if as_json {
        println!("{:#}", document(software, seed, &done));
    }
    say(summary);
    let two_owners = done.iter().any(|run| run.finding.owners_max > 1);
    if two_owners {
        eprintln!("lab: two nodes owned the VIP at the same time");
    }
    Ok(if two_owners {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn one_death(
    arena: &Arena,
    daemons: &mut [Option<Daemon>],
    software: Software,
    dice: &mut Dice,
) -> Result<Run> {
    let failed = arena.wait_steady_owner(Duration::from_secs(1), SETTLE)?;
    observe_for(dice.below(PHASE))?;
    let at = arena.fail_node(failed)?;
    let takeover = arena.wait_takeover(failed, at, TAKEOVER_LIMIT)?;
    let mut steps = vec![Step {
        at: Duration::ZERO,
        what: format!("n{failed}, the master, dies: port down, kill -9; its VIP stays configured"),
    }];
    let slot = |node: usize| node.wrapping_sub(1);
    if let Some(Some(Daemon::MfsHa(daemon))) = daemons.get_mut(slot(takeover.node)) {
        let became = became_master_at(daemon)?;
        steps.push(Step {
            at: became.saturating_duration_since(at),
            what: format!("n{} has noticed and is master", takeover.node),
        });
    }
    if let Some(vip_after) = takeover.vip_after {
        steps.push(Step {
            at: vip_after,
            what: format!("the VIP is on n{}", takeover.node),
        });
    }
    steps.push(Step {
        at: takeover.answered_after,
        what: format!("n{} answers ARP for the VIP", takeover.node),
    });
    observe_for(AFTERMATH)?;
    let back = bring_back(arena, daemons, software, failed)?;
    steps.push(Step {
        at: back.saturating_duration_since(at),
        what: format!(
            "n{failed} is restarted, has dropped its stale VIP, its port is up: it is backup"
        ),
    });
    observe_for(AFTERMATH)?;
    steps.sort_by_key(|step| step.at);
    Ok(Run {
        failed,
        takeover,
        steps,
        finding: arena.judge(at, Instant::now())?,
    })
}

/// When a daemon last became master, by its own account.
fn became_master_at(daemon: &mut MfsHa) -> Result<Instant> {
    let before = Instant::now();
    let status = daemon.status()?;
    // The account was drawn up somewhere between question and answer.
    let drawn_up = before + before.elapsed() / 2;
    let ages = status
        .pointer("/transitions")
        .and_then(Value::as_array)
        .context("the status has no transitions")?
        .iter()
        .filter(|item| text_at(item, "/to").is_ok_and(|to| to == "master"))
        .map(|item| number_at(item, "/age_ms"))
        .collect::<Result<Vec<u64>>>()?;
    let age = ages
        .into_iter()
        .min()
        .context("the new master reports no transition to master")?;
    Ok(drawn_up
        .checked_sub(Duration::from_millis(age))
        .unwrap_or(drawn_up))
}

/// Restarts a dead node and returns when it is a reachable backup.
fn bring_back(
    arena: &Arena,
    daemons: &mut [Option<Daemon>],
    software: Software,
    failed: usize,
) -> Result<Instant> {
    let topology = arena.topology();
    let slot = daemons
        .get_mut(failed.wrapping_sub(1))
        .context("node index")?;
    *slot = None;
    if software != Software::MfsHa {
        // The incumbents would leave it, or need the port first.
        topology.remove_vip(failed)?;
        topology.port_up(failed)?;
    }
    let daemon = slot.insert(Daemon::start(topology, failed, software, false)?);
    arena.wait_vip(failed, false, SETTLE)?;
    if software == Software::MfsHa {
        topology.port_up(failed)?;
    }
    match daemon {
        Daemon::MfsHa(daemon) => {
            daemon.wait_state("backup", SETTLE)?;
        }
        Daemon::Ucarp(daemon) => {
            daemon.wait_state(mfs_ha_lab::software::ucarp::UcarpState::Backup, SETTLE)?;
        }
        Daemon::Keepalived(daemon) => daemon.process().check_running()?,
    }
    Ok(Instant::now())
}

fn timeline(number: u32, run: &Run) -> String {
    let mut text = format!("\ndeath {number}\n");
    for step in &run.steps {
        text.push_str(&format!("{:>8} ms  {}\n", step.at.as_millis(), step.what));
    }
    text.push_str(&format!(
        "             owners at any moment: at most {}; nobody answered for {} ms",
        run.finding.owners_max,
        run.finding.longest_gap.as_millis()
    ));
    text
}

fn answered(runs: &[Run]) -> Option<Spread> {
    let durations: Vec<Duration> = runs.iter().map(|run| run.takeover.answered_after).collect();
    Spread::of(&durations)
}

fn summary(software: Software, runs: &[Run]) -> String {
    let mut text = format!(
        "\ndeath of the master to the first ARP answer of the new one, median [min..max]:\n  {:<30}{}\n",
        format!("{}, this run", software.name()),
        answered(runs).map_or_else(|| "none".to_owned(), |spread| spread.to_string())
    );
    for (name, figure) in REFERENCE {
        text.push_str(&format!("  {name:<30}{figure} (measured earlier)\n"));
    }
    text
}

fn document(software: Software, seed: u64, runs: &[Run]) -> Value {
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let list: Vec<Value> = runs
        .iter()
        .map(|run| {
            let steps: Vec<Value> = run
                .steps
                .iter()
                .map(|step| json!({"at_ms": millis(step.at), "what": step.what}))
                .collect();
            json!({
                "failed": format!("n{}", run.failed),
                "new_owner": format!("n{}", run.takeover.node),
                "answered_ms": millis(run.takeover.answered_after),
                "vip_ms": run.takeover.vip_after.map(millis),
                "owners_max": run.finding.owners_max,
                "two_owners_ms": millis(run.finding.overlap),
                "timeline": steps,
            })
        })
        .collect();
    let spread = answered(runs).map(|spread| {
        json!({
            "median": millis(spread.median),
            "min": millis(spread.min),
            "max": millis(spread.max),
        })
    });
    json!({
        "software": software,
        "nodes": NODES,
        "seed": seed,
        "answered_ms": spread,
        "deaths": list,
    })
}
