//! The table of keys, its defaults and its ranges.

use std::collections::HashSet;

use super::*;
use crate::admission::Prefixes;

/// Rule 3, S0.5, S0.10 to S0.12, S1.9, S1.11, S2.3, S4.32, S4.33, S4.91.
#[test]
fn defaults_are_those_of_the_requirements() {
    let config = Config::default();
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.admission.connections_per_ip_per_minute, 60);
    assert_eq!(config.admission.connections_per_ip_burst, 60);
    assert_eq!(config.admission.global_connections_per_second, 1000);
    assert_eq!(config.admission.max_global_connections, 10_000_000);
    assert_eq!(config.shutdown.deadline_ms, 30_000);
    assert_eq!(config.shutdown.drain_ms, 15_000);
    assert_eq!(config.shutdown.notice_ms, 500);
    assert_eq!(config.shutdown.close_timeout_ms, 5000);
    assert_eq!(config.shutdown.force_timeout_ms, 5000);
    assert_eq!(config.shutdown.close_code, 1001);
    assert_eq!(config.shutdown.background_ms, 10_000);
    assert_eq!(config.shutdown.resource_timeout_ms, 5000);
    assert_eq!(config.shutdown.reconnect_per_second, 1000);
    assert_eq!(config.admin.token, None);
    assert_eq!(config.shutdown.report_file, None);
    assert_eq!(config.log.format, LogFormat::Auto);
    assert!(config.warnings.is_empty());
    assert_eq!(Config::load(Sources::default()), Ok(config));
}

#[test]
fn the_table_is_sound() {
    let mut names = HashSet::new();
    for key in KEYS {
        assert_eq!(key.name.split('.').count(), 2, "{}", key.name);
        assert!(names.insert(key.environment_name()), "{} twice", key.name);
        for legacy in key.legacy {
            assert!(names.insert(legacy.name.to_owned()), "{} twice", legacy.name);
            assert!(!legacy.name.starts_with("TIDEGATE_"));
        }
        assert!(!key.about.is_empty(), "{} is not explained", key.name);
        let default = key.preset_value();
        let text = match &default {
            Value::List(texts) => texts.join(","),
            Value::Text(text) => text.clone(),
            Value::Blocks(_) | Value::Overrides(_) => default.to_string().replace(['[', ']'], ""),
            other => other.to_string(),
        };
        assert_eq!(key.rule.read_text(&text), Ok(default), "the default of {}", key.name);
    }
}

#[test]
fn every_number_is_taken_at_its_bounds_and_refused_beyond_them() {
    for key in KEYS {
        let (min, max, zero) = match key.rule {
            Rule::Number { min, max, zero } => (min, max, zero.is_some()),
            Rule::PowerOfTwo { min, max } => (min, max, false),
            _ => continue,
        };
        for inside in [min, max] {
            let mut values = vec![(key.name, inside.to_string())];
            if key.section() == "shutdown" && key.field() != "deadline_ms" {
                // So that no stage is cut.
                values.push(("shutdown.deadline_ms", "86400000".to_owned()));
            }
            let values: Vec<_> = values.iter().map(|(key, value)| (*key, &value[..])).collect();
            let config = Config::load(set(&values)).expect(key.name);
            // Also shows that the field's type holds the whole range.
            assert_eq!(shown(&config, key.name), (inside.to_string(), "flag --set".to_owned()));
        }
        let below = min.checked_sub(1).filter(|below| !(zero && *below == 0));
        for outside in below.into_iter().chain([max + 1, u64::MAX]) {
            let found = errors(set(&[(key.name, &outside.to_string())]));
            let expected = format!(
                "flag --set: {} = {outside} is refused; allowed: {}",
                key.name,
                key.allowed()
            );
            assert_eq!(found, [expected]);
        }
        let at_zero = Config::load(set(&[(key.name, "0")]));
        assert_eq!(at_zero.is_ok(), zero || min == 0, "{} = 0", key.name);
        for wrong in ["", "-1", "+1", "1.5", "1e3", "ten", "1 000", "_1", "1__0", "0x10"] {
            assert!(Config::load(set(&[(key.name, wrong)])).is_err(), "{} = {wrong}", key.name);
        }
        let huge = "99999999999999999999999";
        assert!(Config::load(set(&[(key.name, huge)])).is_err(), "{} = {huge}", key.name);
    }
}

#[test]
fn receive_buffers_are_a_power_of_two() {
    assert!(Config::load(set(&[("server.receive_buffers", "500")])).is_err());
    let config = Config::load(set(&[("server.receive_buffers", "1_024")])).unwrap();
    assert_eq!(config.server.receive_buffers, 1024);
}

#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_64_unless_set_otherwise() {
    let prefixes = |values| Config::load(set(values)).unwrap().admission.prefixes();
    assert_eq!(prefixes(&[]), Prefixes::default());
    let wider = [("admission.ipv4_prefix_bits", "24"), ("admission.ipv6_prefix_bits", "48")];
    assert_eq!(Some(prefixes(&wider)), Prefixes::new(24, 48));
    let (_file, sources) = written("[admission]\nipv4_prefix_bits = 1\nipv6_prefix_bits = 1\n");
    assert_eq!(Some(Config::load(sources).unwrap().admission.prefixes()), Prefixes::new(1, 1));
}

#[test]
fn nobody_is_trusted_unless_it_is_set() {
    let config = Config::default();
    assert!(config.server.trusted_proxies.is_empty());
    assert_eq!(config.server.proxy_protocol, ProxyProtocol::Off);
    let proxies = ("server.trusted_proxies", "127.0.0.2, 10.0.0.0/8");
    let config = Config::load(set(&[proxies, ("server.proxy_protocol", "require")])).unwrap();
    assert_eq!(config.server.proxy_protocol, ProxyProtocol::Require);
    let (value, _) = shown(&config, "server.trusted_proxies");
    assert_eq!(value, "[127.0.0.2/32, 10.0.0.0/8]");
    assert!(config.warnings.is_empty());
    for alone in [("server.proxy_protocol", "accept"), ("server.trusted_proxies", "::/0")] {
        assert_eq!(Config::load(set(&[alone])).unwrap().warnings.len(), 1, "{alone:?}");
    }
}

/// Rule 3.
#[test]
fn close_codes_are_those_that_may_be_sent() {
    for code in 0..=5100_u16 {
        let allowed = matches!(code, 1000..=1014 | 3000..=4999) && !(1004..=1006).contains(&code);
        let loaded = Config::load(set(&[("shutdown.close_code", &code.to_string())]));
        assert_eq!(loaded.is_ok(), allowed, "{code}");
    }
}

#[test]
fn the_default_file_yields_the_defaults_with_and_without_its_comments() {
    let text = Config::default_file();
    let (_file, sources) = written(&text);
    assert_eq!(Config::load(sources), Ok(Config::default()));

    let is_value = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let uncommented: String = text
        .lines()
        .map(|line| if is_value(line) { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(text.lines().filter(|line| is_value(line)).count(), KEYS.len());
    let (file, sources) = written(&uncommented);
    let config = Config::load(sources).unwrap();
    let default = Config::default();
    for (shown, default) in config.shown().iter().zip(default.shown()) {
        assert_eq!(shown.value, default.value, "{}", shown.key);
        let place = format!("file {}:", file.path().display());
        assert!(shown.source.starts_with(&place), "{}: {}", shown.key, shown.source);
    }
    assert_eq!(config.warnings, default.warnings);
}
