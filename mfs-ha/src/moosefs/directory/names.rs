//! Which file of a data directory is what, by its name.

use super::Family;

/// What a name promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A metadata image.
    Image,
    /// A changelog.
    Changelog,
    /// Neither, and why.
    Other(&'static str),
}

/// Judges a name; `None` where it has nothing to do with metadata.
pub(crate) fn classify(name: &str) -> Option<(Family, Kind)> {
    let packed = name.strip_suffix(".zst").and_then(classify);
    if let Some((family, Kind::Image | Kind::Changelog)) = packed {
        return Some((family, Kind::Other("compressed: unpack it with `zstd -d`")));
    }
    if name.starts_with("metadata") {
        let is_metalogger = name.starts_with("metadata_ml");
        return Some((family(is_metalogger), image(name)));
    }
    if name.starts_with("changelog") {
        let is_metalogger = name.starts_with("changelog_ml");
        return Some((family(is_metalogger), changelog(name)));
    }
    None
}

fn family(is_metalogger: bool) -> Family {
    if is_metalogger {
        Family::Metalogger
    } else {
        Family::Master
    }
}

fn image(name: &str) -> Kind {
    match name {
        "metadata.mfs"
        | "metadata.mfs.back"
        | "metadata.mfs.emergency"
        | "metadata_ml.mfs"
        | "metadata_ml.mfs.back" => return Kind::Image,
        "metadata.mfs.empty" => {
            return Kind::Other("the empty file system that the package moosefs-master brings");
        }
        "metadata.crc" => return Kind::Other("checksums, not needed"),
        "metadata.mfs.back.tmp" => return Kind::Other("an image that mfsmaster did not finish"),
        "metadata_ml.tmp" => return Kind::Other("a download that mfsmetalogger did not finish"),
        _ => {}
    }
    let is_backup = ["metadata.mfs.back.", "metadata_ml.mfs.back."]
        .iter()
        .any(|prefix| name.strip_prefix(prefix).is_some_and(is_number));
    if is_backup {
        Kind::Image
    } else {
        Kind::Other("not a name that MooseFS gives")
    }
}

fn changelog(name: &str) -> Kind {
    // Longest first: each one begins with the one after it.
    let is_changelog = ["changelog_ml_back.", "changelog_ml.", "changelog."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .and_then(|rest| rest.strip_suffix(".mfs"))
        .is_some_and(is_number);
    if is_changelog {
        Kind::Changelog
    } else {
        Kind::Other("not a name that MooseFS gives")
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, family, kind) in [
            ("metadata.mfs", Family::Master, Kind::Image),
            ("metadata.mfs.back", Family::Master, Kind::Image),
            ("metadata.mfs.back.12", Family::Master, Kind::Image),
            ("metadata_ml.mfs.back", Family::Metalogger, Kind::Image),
            ("metadata_ml.mfs.back.3", Family::Metalogger, Kind::Image),
            ("changelog.0.mfs", Family::Master, Kind::Changelog),
            ("changelog_ml.50.mfs", Family::Metalogger, Kind::Changelog),
            (
                "changelog_ml_back.1.mfs",
                Family::Metalogger,
                Kind::Changelog,
            ),
        ] {
            assert_eq!(classify(name), Some((family, kind)), "{name}");
        }
        for name in [
            "metadata.mfs.empty",
            "metadata.mfs.back.tmp",
            "metadata.mfs.back.",
            "metadata.mfs.back.1a",
            "metadata.mfs.old",
            "metadata.mfs.back.zst",
            "changelog_ml.3.mfs.zst",
            "metadata_ml.tmp",
            "changelog.mfs",
            "changelog..mfs",
            "changelog.0.mfs.gz",
            "changelog_ml.+1.mfs",
            "changelog_ml_back.mfs",
        ] {
            let kind = classify(name).map(|(_, kind)| kind);
            assert!(matches!(kind, Some(Kind::Other(_))), "{name}");
        }
        for name in ["stats.mfs", ".mfsmaster.lock", "mfs-ha", "exports.cfg"] {
            assert_eq!(classify(name), None, "{name}");
        }
    }
}
