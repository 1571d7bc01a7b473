//! `demo`: MooseFS on three nodes, a client at work, the serving node breaks, and the timeline of what judges and
//! client saw.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::figures::FIGURES;
use mfs_ha_lab::oracle::report::Report;
use mfs_ha_lab::oracle::trial::{Fault, Patience, complete, conclude};
use mfs_ha_lab::requirements::{lab_binary, mfs_ha_binary, require_root};
use mfs_ha_lab::software::moosefs::cluster::Cluster;
use mfs_ha_lab::software::moosefs::{Mode, check_installed};
use mfs_ha_lab::wait::{end_waits_on_signals, interrupted};
use serde_json::{Value, json};

/// The slowest client measured so far, after a failover by the recipe, went on after twenty seconds.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(60),
    stragglers: Duration::from_secs(12),
};
/// The judges keep all that they saw: a long demo is several labs.
const RUNS_PER_LAB: u32 = 20;

pub(crate) fn run(
    mode: Mode,
    fault: Fault,
    runs: u32,
    client: ClientOptions,
    as_json: bool,
) -> Result<ExitCode> {
    require_root()?;
    check_installed()?;
    mfs_ha_binary()?;
    lab_binary()?;
    end_waits_on_signals()?;
    let mut reports = Vec::new();
    while reports.len() < usize::try_from(runs)? {
        let left = runs - u32::try_from(reports.len())?;
        let runs = left.min(RUNS_PER_LAB);
        one_lab(mode, fault, runs, client, as_json, &mut reports)?;
    }
    if as_json {
        println!("{:#}", document(fault, &reports));
    } else {
        println!("{}", summary(fault, &reports));
    }
    let problems: Vec<String> = reports.iter().flat_map(Report::problems).collect();
    for problem in &problems {
        eprintln!("lab: {problem}");
    }
    if let Some(text) = known_limitation(fault, &reports) {
        eprintln!("lab: {text}");
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn one_lab(
    mode: Mode,
    fault: Fault,
    runs: u32,
    client: ClientOptions,
    as_json: bool,
    reports: &mut Vec<Report>,
) -> Result<()> {
    let say = |text: &str| {
        if !as_json {
            println!("{text}");
        }
    };
    say(&format!(
        "{}, two chunkservers, one client: starting (about 20 s)",
        match mode {
            Mode::Quorum => "three nodes with mfs-ha and MooseFS, of which two must agree",
            Mode::Witness =>
                "two nodes with mfs-ha and MooseFS and a witness, of which two must agree",
            Mode::Carp => "three nodes with mfs-ha and MooseFS in carp mode",
        }
    ));
    let mut cluster = Cluster::new(mode)?;
    let outcome = (|| {
        cluster.start_all()?;
        cluster.start_client(client)?;
        say(&format!(
            "n1 serves, the others are ready; {} writers and {} readers are at work",
            client.writers, client.readers
        ));
        for _ in 0..runs {
            let fault = in_turn(fault, reports.len());
            say(&format!("\nfailure {}", reports.len() + 1));
            let report = complete(&mut cluster, fault, PATIENCE, &mut |at, what| {
                say(&format!("{:>8} ms  {what}", at.as_millis()));
            })?;
            say(&account(&report));
            reports.push(report);
        }
        match reports.last_mut() {
            Some(last) => conclude(&mut cluster, last),
            None => Ok(()),
        }
    })();
    if outcome.is_err() && !interrupted() {
        cluster.arena().topology().keep_directory();
    }
    outcome
}

/// A dying node may fall silent before its processes are gone, or after.
fn in_turn(fault: Fault, number: usize) -> Fault {
    if fault == Fault::NodeDeath && number % 2 == 1 {
        Fault::NodeDeathLinkLast
    } else {
        fault
    }
}

fn account(report: &Report) -> String {
    let mut text = String::new();
    if let Some(winner) = report.winner.as_ref().filter(|_| !report.steps.is_empty()) {
        text.push_str(&format!("  promotion, by {winner}'s own account:\n"));
    }
    for step in &report.steps {
        let took = step.ended.map_or_else(
            || "not ended".to_owned(),
            |ended| format!("{:.0} ms", (ended - step.started) * 1000.0),
        );
        let reason = step.reason.as_ref().map(|reason| format!(": {reason}"));
        text.push_str(&format!(
            "{:>8.0} ms  {:<4}{:<16}{took:>10}  {}{}\n",
            step.started * 1000.0,
            step.id,
            step.step,
            step.result,
            reason.unwrap_or_default()
        ));
    }
    text.push_str(&format!(
        "  {} files acknowledged so far, {} missing, {} wrong; VIP owners at most {}, masters at most {}; \
         calls of the client that failed: {}",
        report.acked,
        report.missing,
        report.wrong + report.unreadable,
        report.owners_max,
        report.servers_max,
        report.client_errors
    ));
    if report.writers_stalled + report.readers_stalled > 0 {
        text.push_str(&format!(
            "\n  not gone on yet: {} writers (a crash can leave a chunk locked for two minutes), {} readers",
            report.writers_stalled, report.readers_stalled
        ));
    }
    text
}

fn summary(fault: Fault, reports: &[Report]) -> String {
    let mut text = format!(
        "\n{} x {}, after the failure: median [least..most]\n  {:<34}{:<26}recipe with ucarp, measured earlier (ms)\n",
        reports.len(),
        fault.name(),
        "",
        "mfs-ha, just now"
    );
    for figure in FIGURES {
        // A master that stays is not detected, and its VIP does not move.
        let nothing = if ["detect", "vip"].contains(&figure.key) {
            "-"
        } else {
            "never"
        };
        let (shown, count) = figure.spread(reports).map_or_else(
            || (nothing.to_owned(), 0),
            |(spread, count)| (spread.to_string(), count),
        );
        let partly = if count > 0 && count < reports.len() {
            format!(" ({count}x)")
        } else {
            String::new()
        };
        text.push_str(&format!(
            "  {:<34}{:<26}{}\n",
            figure.name,
            shown + &partly,
            recipe(fault, figure.key)
        ));
    }
    text
}

fn document(fault: Fault, reports: &[Report]) -> Value {
    let figures: serde_json::Map<String, Value> = FIGURES
        .into_iter()
        .map(|figure| {
            let spread = figure.spread(reports).map(|(spread, count)| {
                json!({
                    "count": count,
                    "median": spread.median.as_secs_f64(),
                    "min": spread.min.as_secs_f64(),
                    "max": spread.max.as_secs_f64(),
                })
            });
            (
                format!("t_{}", figure.key),
                json!({"mfs_ha_s": spread, "recipe_ms": recipe(fault, figure.key)}),
            )
        })
        .collect();
    json!({
        "fault": fault.name(),
        "ok": reports.iter().all(|report| report.problems().is_empty()),
        "known_limitation": known_limitation(fault, reports),
        "figures": figures,
        "runs": reports,
    })
}

/// What cannot be right yet, or never, if it shows.
fn known_limitation(fault: Fault, reports: &[Report]) -> Option<&'static str> {
    let two_owners = reports.iter().any(|report| report.owners_max > 1);
    let is_lost = reports.iter().any(|report| report.missing > 0);
    if matches!(fault, Fault::DaemonKill | Fault::DaemonFreeze) && two_owners {
        Some(
            "known limitation: a node whose mfs-ha was killed or frozen goes on owning the VIP and serving, and what \
             it acknowledged after the takeover is lost; nothing in its kernel closes it yet",
        )
    } else if matches!(fault, Fault::Partition | Fault::Split) && two_owners {
        Some(
            "known limitation: carp mode asks no majority, so that each side of a partition has a master; use \
             `--mode quorum`",
        )
    } else if fault == Fault::Split && is_lost {
        Some(
            "known limitation: metaloggers follow the master asynchronously; what it acknowledged to clients after \
             its standbys had lost it, and before its lease ended, is in its archive and not in the file system",
        )
    } else {
        None
    }
}

/// What the recipe needed: median, least, most. It is ucarp with shell scripts that stop the metalogger, restore
/// the metadata and start the master.
fn recipe(fault: Fault, figure_key: &str) -> &'static str {
    let [vip, listen, write, read] = match fault {
        Fault::NodeDeath | Fault::NodeDeathLinkLast => [
            "2810 [2350..3080], once 11270",
            "8480 [7080..15870]; 1 of 17: never",
            "9480 [9080..16700]; 1 of 17: never",
            "[9450..19500]",
        ],
        Fault::MasterCrash => ["never notices", "never", "never", "never"],
        Fault::Graceful => [
            "3290 [3290..3430]",
            "10090 [9140..12980]",
            "10980, 11070; once 745 files rolled back",
            "10980, 11070",
        ],
        Fault::DaemonKill
        | Fault::DaemonFreeze
        | Fault::NodeFreeze
        | Fault::Partition
        | Fault::Split
        | Fault::Mute
        | Fault::Deaf
        | Fault::OutboundCut
        | Fault::InboundCut => ["not measured"; 4],
    };
    match figure_key {
        "vip" => vip,
        "listen" => listen,
        "write" => write,
        "read" => read,
        // The recipe was watched for no others.
        _ => "-",
    }
}
