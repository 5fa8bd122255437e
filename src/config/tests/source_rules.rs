//! `admission.deny`, `admission.allow` and `admission.overrides`, as they are written.

use super::*;

const RULES: &str = "\
[admission]
connections_per_ip_per_minute = 30
deny = [\"192.0.2.0/24\", \"2001:db8::/32\"]
allow = [
    \"127.0.0.1/32\", # the probe
]

[admission.overrides.\"10.0.0.0/8\"]
connections_per_minute = 600

[admission.overrides.\"10.1.0.0/16\"]
burst = 5
max_concurrent = 100
";

#[test]
fn rules_are_read_from_the_file() {
    let (_file, sources) = written(RULES);
    let config = Config::load(sources).unwrap();
    let texts = |key| shown(&config, key).0;
    assert_eq!(texts("admission.deny"), "[192.0.2.0/24, 2001:db8::/32]");
    assert_eq!(texts("admission.allow"), "[127.0.0.1/32]");
    assert_eq!(
        texts("admission.overrides"),
        "[10.0.0.0/8 connections_per_minute=600 burst=600; 10.1.0.0/16 burst=5 max_concurrent=100]"
    );
}

#[test]
fn a_burst_follows_the_rate_beside_it_unless_one_is_set() {
    let overrides = |burst: &str, overrides: &str| {
        let values =
            [("admission.connections_per_ip_burst", burst), ("admission.overrides", overrides)];
        let config = Config::load(set(&values)).unwrap();
        config.admission.overrides.into_values().next().unwrap().burst
    };
    assert_eq!(overrides("0", "10.0.0.0/8 connections_per_minute=600"), Some(600));
    assert_eq!(overrides("0", "10.0.0.0/8 max_concurrent=1"), Some(60));
    assert_eq!(overrides("7", "10.0.0.0/8 connections_per_minute=600"), None, "as for everybody");
    assert_eq!(overrides("7", "10.0.0.0/8 connections_per_minute=600 burst=0"), Some(600));
}

#[test]
fn the_environment_and_flags_have_forms_of_one_line() {
    let mut sources = environment(&[
        ("TIDEGATE_ADMISSION__DENY", "192.0.2.0/24, 2001:db8::/32"),
        ("TIDEGATE_ADMISSION__OVERRIDES", "10.0.0.0/8 burst=5; 2001:db8:1::/48 max_concurrent=2"),
    ]);
    sources.flags = set(&[("admission.allow", "127.0.0.1/32")]).flags;
    let admission = Config::load(sources).unwrap().admission;
    assert_eq!((admission.deny.len(), admission.allow.len(), admission.overrides.len()), (2, 1, 2));
}

#[test]
fn every_bad_block_is_an_error_with_its_own_line() {
    let (_file, mut sources) = written(
        "[admission]\n\
         deny = [\n\
         \"10.1.2.3/8\",\n\
         \"10.0.0.0/8\",\n\
         5,\n\
         \"2001:db8::/80\",\n\
         ]\n\
         allow = \"10.0.0.0/8\"\n\
         [admission.overrides.\"172.16.0.0/12\"]\n\
         bust = 5\n\
         burst = -1\n\
         [admission.overrides.\"172.16.0.0\"]\n\
         burst = 1\n",
    );
    sources.environment = environment(&[("TIDEGATE_ADMISSION__ALLOW", "::1")]).environment;
    let list = Key::find("admission.deny").unwrap().allowed();
    let tables = Key::find("admission.overrides").unwrap().allowed();
    assert_eq!(
        errors(sources),
        [
            format!(
                "file FILE:3: admission.deny = 10.1.2.3/8 is refused (it has bits set behind its \
                 prefix; write 10.0.0.0/8); allowed: {list}"
            ),
            format!(
                "file FILE:5: admission.deny = (not a string) is refused (a list of strings is \
                 expected here); allowed: {list}"
            ),
            format!(
                "file FILE:6: admission.deny = 2001:db8::/80 is refused (an IPv6 source is a whole \
                 /64; write 2001:db8::/64); allowed: {list}"
            ),
            format!(
                "file FILE:8: admission.allow = \"10.0.0.0/8\" is refused (a list of strings is \
                 expected here); allowed: {list}"
            ),
            format!(
                "file FILE:10: admission.overrides = 172.16.0.0/12 bust is refused (bust is \
                 not one of connections_per_minute, burst, max_concurrent); allowed: {tables}"
            ),
            format!(
                "file FILE:11: admission.overrides = 172.16.0.0/12 burst is refused (burst takes 0 \
                 (the same as connections_per_minute), or 1 to 60000000); allowed: {tables}"
            ),
            format!(
                "file FILE:12: admission.overrides = 172.16.0.0 is refused (it has no prefix \
                 length; write 172.16.0.0/32); allowed: {tables}"
            ),
            format!(
                "environment TIDEGATE_ADMISSION__ALLOW: admission.allow = ::1 is refused (\"::1\": \
                 it has no prefix length; write ::/64); allowed: {list}"
            ),
        ]
    );
}

#[test]
fn a_block_has_one_kind_of_rule() {
    let (_file, sources) = written(
        "[admission]\n\
         deny = [\"10.0.0.0/8\", \"10.0.0.0/8\", \"10.1.0.0/16\"]\n\
         allow = [\"10.0.0.0/8\", \"127.0.0.1/32\"]\n\
         [admission.overrides.\"10.1.0.0/16\"]\n\
         [admission.overrides.\"127.0.0.1/32\"]\n",
    );
    assert_eq!(
        errors(sources),
        [
            "10.0.0.0/8 is in admission.deny (file FILE:2) and in admission.allow (file FILE:3); \
             leave it in one of them",
            "10.1.0.0/16 is in admission.deny (file FILE:2) and in admission.overrides (file \
             FILE:4); leave it in one of them",
            "127.0.0.1/32 is in admission.allow (file FILE:3) and in admission.overrides (file \
             FILE:4); leave it in one of them",
        ]
    );
}

#[test]
fn a_rule_is_for_whole_sources() {
    let (_file, mut sources) = written(
        "[admission]\n\
         deny = [\"10.0.0.0/8\", \"10.1.2.0/24\", \"10.1.2.3/32\"]\n\
         allow = [\"2001:db8::/32\", \"2001:db8:1:2::/64\"]\n\
         ipv6_prefix_bits = 48\n\
         [admission.overrides.\"10.1.2.128/25\"]\n\
         burst = 1\n",
    );
    sources.flags = set(&[("admission.ipv4_prefix_bits", "24")]).flags;
    assert_eq!(
        errors(sources),
        [
            "10.1.2.3/32 in admission.deny (file FILE:2) is part of one source, which \
             admission.ipv4_prefix_bits = 24 (flag --set) makes of 10.1.2.0/24; write that, or \
             set more bits",
            "2001:db8:1:2::/64 in admission.allow (file FILE:3) is part of one source, which \
             admission.ipv6_prefix_bits = 48 (file FILE:4) makes of 2001:db8:1::/48; write that, \
             or set more bits",
            "10.1.2.128/25 in admission.overrides (file FILE:5) is part of one source, which \
             admission.ipv4_prefix_bits = 24 (flag --set) makes of 10.1.2.0/24; write that, or \
             set more bits",
        ]
    );
}
