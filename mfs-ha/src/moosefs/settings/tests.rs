//! Lines as MooseFS reads them, and what is wrong with them.

use super::*;

const PATH: &str = "/etc/mfs/mfsmaster.cfg";

fn entries(text: &str) -> Entries {
    Entries::parse(Path::new(PATH), text.as_bytes())
}

fn value(line: &str) -> Option<(String, Option<String>)> {
    parse_line(line.as_bytes())
}

fn entry(key: &str, value: &str) -> Option<(String, Option<String>)> {
    Some((key.to_owned(), Some(value.to_owned())))
}

#[test]
fn lines_are_cut_as_moosefs_cuts_them() {
    let expected = entry("DATA_PATH", "/srv/my data");
    for line in [
        "DATA_PATH = /srv/my data",
        "DATA_PATH=/srv/my data",
        "\t DATA_PATH\t=\t/srv/my data   ",
        "DATA_PATH = /srv/my data\r",
        "DATA_PATH = /srv/my data\t# a comment behind a tab",
    ] {
        assert_eq!(value(line), expected, "{line:?}");
    }
    assert_eq!(value("A = b # c"), entry("A", "b # c"));
    assert_eq!(value("WORKING_GROUP ="), entry("WORKING_GROUP", ""));
    assert_eq!(value("X = a=b"), entry("X", "a=b"));
    for line in ["", "   ", "# DATA_PATH = /x", "= /x", "\r"] {
        assert_eq!(value(line), None, "{line:?}");
    }
    for line in ["A", "A b", "A : b", "A = b\tc", "A = b\u{fc}"] {
        assert_eq!(value(line), Some(("A".to_owned(), None)), "{line:?}");
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    let settings = master(&entries("# DATA_PATH = /elsewhere\n")).unwrap();
    assert_eq!(settings.data_path, Path::new("/var/lib/mfs"));
    assert_eq!(settings.ports(), [9419, 9420, 9421]);
    assert_eq!(
        (
            settings.working_user.as_str(),
            settings.working_group.as_str()
        ),
        ("mfs", "mfs")
    );
    assert_eq!(settings.problems().len(), 1);
    assert!(settings.problems()[0].starts_with("CHANGELOG_SAVE_MODE = 0"));
    let settings = master(&entries("CHANGELOG_SAVE_MODE = 1\n")).unwrap();
    assert_eq!(settings.problems(), Vec::<String>::new());
    let settings = metalogger(&entries("")).unwrap();
    assert_eq!(settings.master_host, "mfsmaster");
    assert_eq!(settings.master_port, 9419);
    assert_eq!(settings.reconnection_delay, 5);
}

#[test]
fn values_are_taken_and_the_last_one_counts() {
    let text = "DATA_PATH = /a\nMATOML_LISTEN_PORT = 19419\nMATOCS_LISTEN_PORT=19420\n\
                MATOCL_LISTEN_PORT = 19421\nSOMETHING ELSE\nDATA_PATH = /b\n";
    let settings = master(&entries(text)).unwrap();
    assert_eq!(settings.data_path, Path::new("/b"));
    assert_eq!(settings.ports(), [19419, 19420, 19421]);
    let text = "MASTER_HOST = 10.0.0.100\nMASTER_PORT = 19419\nMASTER_RECONNECTION_DELAY = 1";
    let settings = metalogger(&entries(text)).unwrap();
    assert_eq!(settings.master_host, "10.0.0.100");
    assert_eq!(settings.master_port, 19419);
    assert_eq!(settings.reconnection_delay, 1);
}

#[test]
fn the_old_names_of_the_clients_port_are_heeded() {
    let settings = master(&entries("MATOCU_LISTEN_PORT = 7\n")).unwrap();
    assert_eq!(settings.matocl.port, 7);
    let both = "MATOCU_LISTEN_PORT = 7\nMATOCL_LISTEN_HOST = *\n";
    assert_eq!(master(&entries(both)).unwrap().matocl.port, 9421);
}

#[test]
fn what_is_wrong_is_said_with_file_line_and_remedy() {
    let expected = [
        (
            "\nDATA_PATH = data\n",
            "/etc/mfs/mfsmaster.cfg line 2: `DATA_PATH = data` has to be an absolute path",
        ),
        (
            "DATA_PATH /srv",
            "/etc/mfs/mfsmaster.cfg line 1: MooseFS ignores this line about DATA_PATH: it has to \
             be `DATA_PATH = VALUE`",
        ),
        (
            "MATOCL_LISTEN_PORT = mfs",
            "/etc/mfs/mfsmaster.cfg line 1: `MATOCL_LISTEN_PORT = mfs` has to be a port number, \
             1 to 65535",
        ),
        (
            "MATOCS_LISTEN_PORT = 0",
            "/etc/mfs/mfsmaster.cfg line 1: `MATOCS_LISTEN_PORT = 0` has to be a port number, 1 \
             to 65535",
        ),
    ];
    for (text, words) in expected {
        assert_eq!(master(&entries(text)).unwrap_err().to_string(), words);
    }
    let error = metalogger(&entries("MASTER_RECONNECTION_DELAY = 0")).unwrap_err();
    assert!(error.to_string().ends_with("at least 1"), "{error}");
}

#[test]
fn what_a_failover_cannot_work_with_is_told() {
    let text = "MATOCL_LISTEN_HOST = 10.0.0.1\nMATOCS_LISTEN_PORT = 9419\n";
    let problems = master(&entries(text)).unwrap().problems();
    assert_eq!(problems.len(), 3);
    assert!(problems[0].starts_with("MATOCL_LISTEN_HOST = 10.0.0.1 has to be *"));
    assert!(problems[1].contains("9419, 9419 and 9421"));
}

#[test]
fn owners_are_names_or_numbers() {
    if !geteuid().is_root() {
        assert_eq!(owner("nobody-has-it", "").unwrap().0, geteuid().as_raw());
        return;
    }
    assert_eq!(owner("#4711", "#4712").unwrap(), (4711, 4712));
    assert_eq!(owner("root", "").unwrap(), (0, 0));
    assert_eq!(owner("#0", "").unwrap(), (0, 0));
    assert_eq!(owner("daemon", "root").unwrap().1, 0);
    for (user, group, words) in [
        ("nobody-has-it", "", "WORKING_USER = nobody-has-it"),
        ("#4711", "", "WORKING_USER = #4711"),
        ("root", "nobody-has-it", "WORKING_GROUP = nobody-has-it"),
    ] {
        let error = owner(user, group).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
}

#[test]
fn files_that_cannot_be_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mfsmaster.cfg");
    let error = read_master(&path).unwrap_err();
    assert!(matches!(error, SettingsError::Read { .. }), "{error:?}");
    std::fs::write(&path, vec![b'#'; 300_000]).unwrap();
    let error = read_metalogger(&path).unwrap_err();
    assert!(matches!(error, SettingsError::TooLong { .. }), "{error:?}");
    let error = read_master(directory.path()).unwrap_err();
    assert!(matches!(error, SettingsError::Read { .. }), "{error:?}");
}
