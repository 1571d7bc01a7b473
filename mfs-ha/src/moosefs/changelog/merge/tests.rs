use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::slice;

use proptest::prelude::*;

use super::*;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn text(number: u64) -> String {
    format!("17|CREATE(1,a{number},1,438,18,0,0,0):{number}")
}

/// A changelog with these changes.
fn log(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().fold(String::new(), |mut log, number| {
        writeln!(log, "{number}: {}", text(number)).unwrap();
        log
    })
}

fn merged(files: &[String], base: u64) -> (Merged, String) {
    let sources = files
        .iter()
        .enumerate()
        .map(|(index, content)| (format!("f{index}"), content.as_bytes()))
        .collect();
    let mut out = String::new();
    let merged = merge(sources, base, &GO_ON, &mut |line| {
        let text = str::from_utf8(line.text).unwrap();
        writeln!(out, "{}: {text}", line.number).unwrap();
        Ok(())
    });
    (merged.unwrap(), out)
}

fn obstacle(files: &[String], base: u64) -> Obstacle {
    merged(files, base).0.obstacle.expect("an obstacle")
}

#[test]
fn files_that_overlap_become_one_history() {
    let (merged, out) = merged(&[log(1..8), log(5..12), log(3..4), String::new()], 4);
    assert_eq!(out, log(4..12));
    assert_eq!((merged.next, merged.lines), (12, 8));
    assert_eq!(merged.obstacle, None);
}

#[test]
fn what_is_missing_is_named_with_its_neighbours() {
    let hole = |from, to, before: Option<&str>, after: &str| Obstacle::Hole {
        from,
        to,
        before: before.map(ToOwned::to_owned),
        after: after.to_owned(),
    };
    let files = [log(1..6), log(9..12)];
    assert_eq!(obstacle(&files, 3), hole(6, 8, Some("f0"), "f1"));
    assert_eq!(obstacle(&files, 7), hole(7, 8, None, "f1"));
    assert_eq!(merged(&files, 3).0.next, 6);
    // Below the image nothing is needed.
    assert_eq!(merged(&files, 9).0.obstacle, None);
    assert_eq!(merged(&files, 12).0.next, 12);
}

#[test]
fn one_number_with_two_changes_is_a_conflict() {
    let other = log(1..9).replace("a7,", "b7,");
    let conflict = Obstacle::Conflict {
        number: 7,
        files: ["f0".to_owned(), "f1".to_owned()],
    };
    let files = [log(1..9), other];
    assert_eq!(obstacle(&files, 2), conflict);
    // The last one that the image has tells the histories apart as well.
    assert_eq!(obstacle(&files, 8), conflict);
    assert_eq!(merged(&files, 9).0.obstacle, None);
    let twice = [format!("{}7: 17|OTHER()\n", log(1..8))];
    assert!(matches!(
        obstacle(&twice, 2),
        Obstacle::Conflict { number: 7, files } if files[0] == files[1]
    ));
}

#[test]
fn numbers_that_fall_are_a_disorder() {
    let files = [format!("{}{}", log(1..9), log(3..5))];
    let disorder = Obstacle::Disorder {
        file: "f0".to_owned(),
        number: 3,
        after: 8,
    };
    assert_eq!(obstacle(&files, 1), disorder);
}

#[test]
fn a_swallowed_change_is_missing_unless_another_file_has_it() {
    let first = "6: 17|WRITE(18700,0,1,0):18668";
    for cut in 1..first.len() {
        let file = format!("{}{}{}", log(1..6), &first[..cut], log(7..10));
        let (found, _) = merged(slice::from_ref(&file), 4);
        assert!(
            matches!(found.obstacle, Some(Obstacle::Hole { from: 6, .. })),
            "cut to {:?}: {found:?}",
            &first[..cut]
        );
        let (found, out) = merged(&[file.clone(), log(5..8)], 4);
        assert_eq!(found.obstacle, None, "cut to {:?}", &first[..cut]);
        assert_eq!(out, log(4..10));
        assert_eq!(found.damaged, [("f0".to_owned(), 1)]);
        // The image has what was swallowed.
        assert_eq!(merged(&[file], 8).0.obstacle, None);
    }
}

#[test]
fn a_damaged_line_at_the_end_counts_if_nobody_has_its_change() {
    let file = format!("{}6: 17|WRI{}", log(1..6), log(7..8));
    let damaged_end = Obstacle::DamagedEnd {
        file: "f0".to_owned(),
        number: Some(7),
    };
    assert_eq!(obstacle(slice::from_ref(&file), 4), damaged_end);
    assert_eq!(obstacle(slice::from_ref(&file), 7), damaged_end);
    assert_eq!(obstacle(&[file.clone(), log(5..7)], 4), damaged_end);
    assert_eq!(merged(&[file.clone(), log(5..9)], 4).0.obstacle, None);
    assert_eq!(merged(&[file], 8).0.obstacle, None);
    let garbage = "garbage\n".to_owned();
    assert!(matches!(
        obstacle(&[garbage], 4),
        Obstacle::DamagedEnd { number: None, .. }
    ));
}

#[test]
fn ids_are_told_with_their_files() {
    let files = [
        format!("1: 17|SETMETAID(7)\n{}", log(2..4)),
        format!("{}4: 17|SETMETAID(8)\n", log(2..4)),
    ];
    let (merged, _) = merged(&files, 1);
    assert_eq!(merged.ids, [("f0".to_owned(), 7), ("f1".to_owned(), 8)]);
}

#[test]
fn the_highest_numbers_do_not_overflow() {
    let files = [log([u64::MAX - 2, u64::MAX - 1])];
    assert_eq!(merged(&files, u64::MAX - 2).0.next, u64::MAX);
    assert!(matches!(
        obstacle(&[log([u64::MAX])], 4),
        Obstacle::DamagedEnd { .. }
    ));
    assert_eq!(merged(&[], u64::MAX).0.next, u64::MAX);
}

#[test]
fn it_stops_when_nobody_wants_it_or_takes_it() {
    let files = vec![("f0".to_owned(), b"1: 17|A()\n".as_slice())];
    let cancelled = AtomicBool::new(true);
    let error = merge(files.clone(), 1, &cancelled, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, MergeError::Cancelled));
    let mut full = |_: &Line<'_>| Err(io::Error::from(io::ErrorKind::StorageFull));
    let error = merge(files, 1, &GO_ON, &mut full).unwrap_err();
    assert!(matches!(error, MergeError::Write(_)));
}

/// All changes of all files in a map, followed from the base on.
fn model(files: &[Vec<(u64, bool)>], base: u64) -> Result<u64, u64> {
    let mut known = BTreeMap::new();
    let mut conflicts = Vec::new();
    for (number, is_other) in files.iter().flatten() {
        if *known.entry(*number).or_insert(is_other) != is_other {
            conflicts.push(*number);
        }
    }
    let first_conflict = conflicts.into_iter().filter(|at| at + 1 >= base).min();
    if first_conflict.is_some_and(|at| at < base) {
        return Err(base);
    }
    let mut next = base;
    for number in known.keys().filter(|number| **number >= base) {
        if *number != next {
            return Err(next);
        }
        next += 1;
        if first_conflict == Some(*number) {
            return Err(next);
        }
    }
    Ok(next)
}

proptest! {
    #[test]
    fn merging_is_what_the_model_says(
        files in prop::collection::vec(
            prop::collection::btree_map(1_u64..40, prop::bool::weighted(0.02), 0..40),
            0..5,
        ),
        base in 1_u64..40,
    ) {
        let files: Vec<Vec<_>> = files.into_iter().map(|file| file.into_iter().collect()).collect();
        let contents: Vec<_> = files
            .iter()
            .map(|file| {
                file.iter().fold(String::new(), |mut log, (number, is_other)| {
                    let name = if *is_other { "OTHER" } else { "SAME" };
                    writeln!(log, "{number}: 17|{name}()").unwrap();
                    log
                })
            })
            .collect();
        let (merged, out) = merged(&contents, base);
        match model(&files, base) {
            Ok(next) => {
                prop_assert_eq!(&merged.obstacle, &None);
                prop_assert_eq!(merged.next, next);
            }
            Err(next) => {
                prop_assert!(merged.obstacle.is_some());
                prop_assert_eq!(merged.next, next);
            }
        }
        prop_assert_eq!(merged.lines, merged.next - base);
        let numbers: Vec<u64> = out
            .lines()
            .map(|line| line.split(':').next().unwrap().parse().unwrap())
            .collect();
        prop_assert_eq!(numbers, (base..merged.next).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_taken(
        files in prop::collection::vec(
            "([0-9]{1,3}: 5\\|[A-Z]{1,3}\\([a-z]{0,2}\\)\n|[0-9:| A()\n]{0,12}|\\PC{0,4}){0,12}",
            0..4,
        ),
        base in 0_u64..1000,
    ) {
        let (merged, out) = merged(&files, base);
        prop_assert_eq!(out.lines().count() as u64, merged.lines);
        prop_assert_eq!(merged.next, base + merged.lines);
    }
}
