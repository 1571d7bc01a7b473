//! Any two histories with a common beginning: what is called exact is, and a bound is one.

use proptest::prelude::*;

use super::*;

/// Where each of them begins and ends, and where they part.
#[derive(Debug, Clone)]
struct Case {
    parted: u64,
    archived: Range<u64>,
    live: Range<u64>,
    /// Next change of the live image.
    image: u64,
    /// Where the changelogs are cut in two, and how much both parts have.
    cut: u64,
    overlap: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    (
        2_u64..40,
        0_u64..20,
        0_u64..20,
        any::<[u64; 3]>(),
        0_u64..60,
        0_u64..5,
    )
        .prop_map(|(parted, archived, live, begins, cut, overlap)| {
            let before = archived.is_multiple_of(4);
            let archived_end = if before { parted } else { parted + archived };
            let live_end = parted + live;
            let below = |end: u64, begin: u64| 1 + begin % (end - 1);
            let live_first = below(live_end, begins[1]);
            Case {
                parted,
                archived: below(archived_end, begins[0])..archived_end,
                live: live_first..live_end,
                image: live_first + begins[2] % (live_end - live_first + 1),
                cut,
                overlap,
            }
        })
}

impl Case {
    fn log(&self, numbers: Range<u64>, name: &str) -> String {
        let parted = self.parted.clamp(numbers.start, numbers.end);
        log(numbers.start..parted, "common") + &log(parted..numbers.end, name)
    }

    fn put(&self, put: impl Fn(&str, String), numbers: &Range<u64>, name: &str) {
        let cut = self.cut.clamp(numbers.start, numbers.end);
        let older = numbers.start..(cut + self.overlap).min(numbers.end);
        put("changelog_ml.1.mfs", self.log(older, name));
        put("changelog_ml.0.mfs", self.log(cut..numbers.end, name));
    }

    fn lost(&self) -> Lost {
        let scene = Scene::new();
        scene.live("metadata_ml.mfs.back", image(self.image, ID));
        let live = |name: &str, log: String| {
            scene.live(name, log);
        };
        let archived = |name: &str, log: String| {
            scene.archived(name, log);
        };
        self.put(live, &self.live, "new");
        self.put(archived, &self.archived, "old");
        scene.lost()
    }
}

proptest! {
    #[test]
    fn what_is_exact_is_true_and_what_is_not_is_a_bound(case in cases()) {
        let lost = case.lost();
        let truth = case.archived.end.saturating_sub(case.parted);
        prop_assert_eq!(lost.reaches, case.archived.end);
        prop_assert_eq!(lost.live_reaches, case.live.end);
        let last_common = case.parted.min(case.archived.end) - 1;
        let can_compare = |history: &Range<u64>| history.contains(&last_common);
        match lost.certainty {
            Certainty::Exact => {
                prop_assert_eq!(lost.changes, truth);
                prop_assert_eq!(lost.parted_at, (truth > 0).then_some(case.parted));
            }
            Certainty::AtMost => {
                let lines = case.archived.end - case.archived.start;
                prop_assert!(lost.changes >= truth.min(lines));
                prop_assert!(!can_compare(&case.archived) || !can_compare(&case.live));
            }
            Certainty::Unknown => prop_assert!(false, "there are changes"),
        }
    }
}
