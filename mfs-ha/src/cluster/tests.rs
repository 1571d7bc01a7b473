use std::path::Path;

use super::path::paths;
use super::*;

fn configuration(node: u8, vip: &str, addresses: [&str; 3]) -> Config {
    let mut text = format!(
        "interface = \"eth0\"\nvip = \"{vip}\"\n[carp]\nvhid = 1\npassword_file = \"/p\"\n\
         [cluster]\nname = \"a\"\nnode = {node}\nsecret_file = \"/s\"\n"
    );
    // Not in the order of the ids.
    for (id, addresses) in [3, 1, 2].into_iter().zip(addresses) {
        text += &format!(
            "[[cluster.members]]\nid = {id}\nrole = \"candidate\"\naddresses = {addresses}\n"
        );
    }
    match Configuration::parse(&text, Path::new("test.toml")).unwrap() {
        Configuration::Candidate(config) => config,
        Configuration::Witness(witness) => panic!("{witness:?}"),
    }
}

#[test]
fn a_master_is_told_by_its_address_in_the_network_of_the_vip() {
    let config = configuration(
        1,
        "10.0.0.100/24",
        [
            r#"["fd00::3", "10.9.0.3", "10.0.0.3"]"#,
            r#"["fd00::1", "10.9.0.1", "10.0.0.1"]"#,
            r#"["fd00::2", "10.9.0.2", "10.0.0.2"]"#,
        ],
    );
    let cluster = config.cluster.as_ref().unwrap();
    let found = sources(cluster, Some(config.vip));
    assert_eq!(
        found[..4],
        [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3], [0; 4]]
    );
    let elsewhere = Vip {
        address: Ipv4Addr::new(192, 168, 0, 1),
        prefix_len: 24,
    };
    for vip in [Some(elsewhere), None] {
        assert_eq!(sources(cluster, vip)[..2], [[10, 9, 0, 1], [10, 9, 0, 2]]);
    }
}

#[test]
fn without_ipv4_members_are_still_told_apart() {
    let config = configuration(
        2,
        "10.0.0.100/24",
        [r#"["fd00::3"]"#, r#"["fd00::1"]"#, r#"["fd00::2"]"#],
    );
    let cluster = config.cluster.as_ref().unwrap();
    let found = sources(cluster, Some(config.vip));
    assert_eq!(found[..3], [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3]]);
}

#[test]
fn each_network_pairs_our_address_with_those_of_the_others() {
    let config = configuration(
        1,
        "10.0.0.100/24",
        [
            r#"["10.0.0.3", "fd00::3"]"#,
            r#"["10.0.0.1", "fd00::1"]"#,
            r#"["10.0.0.2", "fd00::2"]"#,
        ],
    );
    let paths = paths(config.cluster.as_ref().unwrap());
    let shown: Vec<String> = paths
        .iter()
        .map(|path| {
            let others: Vec<String> = path
                .members
                .iter()
                .map(|(id, address)| format!("{id}={address}"))
                .collect();
            format!("{} {} {}", path.index, path.own, others.join(" "))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "0 10.0.0.1 3=10.0.0.3 2=10.0.0.2",
            "1 fd00::1 3=fd00::3 2=fd00::2"
        ]
    );
}
