//! What does not bound the number of connections but makes them slow, or fails at a bad moment.

use super::{Finding, Machine, Question, Verdict};

/// Sockets in one chain of the kernel's table above which a lookup is felt.
const CHAIN_MAX: u64 = 8;
/// Chain length for which a new size is recommended.
const CHAIN_WANTED: u64 = 4;

fn advice_unless(fine: bool) -> Verdict {
    if fine { Verdict::Fine } else { Verdict::Advice }
}

pub(super) fn backlog(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let backlog = u64::from(question.config.server.backlog);
    let Some(most) = machine.number("net.core.somaxconn") else { return Vec::new() };
    vec![
        Finding::new("backlog", advice_unless(backlog <= most))
            .found(format!("{} on each shard", backlog.min(most)))
            .needed(format!("server.backlog {backlog}"))
            .why("the kernel silently uses net.core.somaxconn if that is less")
            .fix(
                format!("sysctl -w net.core.somaxconn={backlog}"),
                format!("sysctl -w net.core.somaxconn={most}"),
            ),
    ]
}

/// The hash table of established sockets, whose size is chosen when the machine boots.
pub(super) fn socket_table(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    // Negative in a namespace that shares the table of the machine.
    let entries = machine.sysctls.get("net.ipv4.tcp_ehash_entries");
    let entries = entries.and_then(|text| text.parse::<i64>().ok()).map(i64::unsigned_abs);
    let Some(entries) = entries.filter(|entries| *entries > 0) else { return Vec::new() };
    let wanted = (question.connections / CHAIN_WANTED).next_power_of_two();
    vec![
        Finding::new("socket table", advice_unless(question.connections / entries <= CHAIN_MAX))
            .found(format!("{entries} chains of {} sockets", question.connections / entries))
            .needed(format!("{wanted} chains"))
            .why("each segment that arrives walks one chain; too few are as right and slower")
            .fix(
                format!(
                    "thash_entries={wanted} on the kernel's command line (GRUB_CMDLINE_LINUX in \
                     /etc/default/grub, update-grub, reboot); in a new network namespace: sysctl \
                     -w net.ipv4.tcp_child_ehash_entries={wanted} before it is made"
                ),
                "take it off the command line and reboot",
            ),
    ]
}

/// A listening port that the kernel may give to a client socket of this machine.
pub(super) fn port(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let range = machine.sysctls.get("net.ipv4.ip_local_port_range");
    let Some((low, high)) = range.and_then(|text| text.split_once(' ')) else { return Vec::new() };
    let (Ok(low), Ok(high)) = (low.parse::<u16>(), high.parse::<u16>()) else { return Vec::new() };
    let reserved = machine.sysctls.get("net.ipv4.ip_local_reserved_ports");
    let reserved = reserved.map_or("", |text| text);
    let config = question.config;
    let taken = |port: u16| port != 0 && (low..=high).contains(&port) && !is_in(port, reserved);
    let ports = [config.server.listen.port(), config.admin.listen.port()];
    let free: Vec<String> =
        ports.into_iter().filter(|port| taken(*port)).map(|port| port.to_string()).collect();
    let list: Vec<&str> = Some(reserved)
        .filter(|text| !text.is_empty())
        .into_iter()
        .chain(free.iter().map(|port| port.as_str()))
        .collect();
    vec![
        Finding::new("ports", advice_unless(free.is_empty()))
            .found(format!("ephemeral {low}-{high}, reserved {}", or_none(reserved)))
            .needed(format!("{} and {} outside or reserved", ports[0], ports[1]))
            .why("a client socket of this machine may take the port, and the next start fails")
            .fix(
                format!("sysctl -w net.ipv4.ip_local_reserved_ports={}", list.join(",")),
                format!("sysctl -w net.ipv4.ip_local_reserved_ports='{reserved}'"),
            ),
    ]
}

/// Whether a port is in a list as in `8080,9000-9010`.
fn is_in(port: u16, list: &str) -> bool {
    list.split(',').any(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.trim().parse::<u16>(), high.trim().parse::<u16>());
        low.is_ok_and(|low| low <= port) && high.is_ok_and(|high| port <= high)
    })
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

pub(super) fn huge_pages(machine: &Machine, _: Question<'_>) -> Vec<Finding> {
    let Some((enabled, defrag)) = &machine.huge_pages else { return Vec::new() };
    const AT: &str = "/sys/kernel/mm/transparent_hugepage/defrag";
    let stalls = enabled == "always" && defrag == "always";
    vec![
        Finding::new("huge pages", advice_unless(!stalls))
            .found(format!("enabled {enabled}, defrag {defrag}"))
            .needed("defrag other than always")
            .why(
                "a shard that takes memory would wait until the kernel has compacted some, and \
                  its connections with it",
            )
            .fix(format!("echo madvise >{AT}"), format!("echo {defrag} >{AT}")),
    ]
}

/// Interrupts of the network card, against the cores of the shards.
pub(super) fn interrupts(machine: &Machine, _: Question<'_>) -> Vec<Finding> {
    let cores = machine.process.cores;
    let finding = |interface: &super::Interface| {
        let fine = interface.receive_queues >= cores || interface.steered;
        let name = &interface.name;
        let steered = if interface.steered { ", steered by RPS" } else { "" };
        Finding::new(&format!("interrupts of {name}"), advice_unless(fine))
            .found(format!("{} receive queues{steered}", interface.receive_queues))
            .needed(format!("{cores}, one for each core of a shard, or RPS"))
            .why("otherwise the cores that have a queue also do the network's work of the others")
            .fix(
                format!("ethtool -L {name} combined {cores}, or: tuning/irq --apply {name}"),
                format!(
                    "ethtool -L {name} combined {}, or: tuning/irq --undo {name}",
                    interface.receive_queues
                ),
            )
    };
    machine.interfaces.iter().map(finding).collect()
}

pub(super) fn clock_source(machine: &Machine, _: Question<'_>) -> Vec<Finding> {
    const AT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let Some(source) = &machine.clock_source else { return Vec::new() };
    let slow = ["hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"].contains(&source.as_str());
    vec![
        Finding::new("clock source", advice_unless(!slow))
            .found(source)
            .needed("one that is read without a system call (tsc, kvm-clock, arch_sys_counter)")
            .why("the clock is read in every turn of every shard")
            .fix(format!("echo tsc >{AT}"), format!("echo {source} >{AT}")),
    ]
}

pub(super) fn swap(machine: &Machine, _: Question<'_>) -> Vec<Finding> {
    let Some(bytes) = machine.swap_bytes else { return Vec::new() };
    vec![
        Finding::new("swap", advice_unless(bytes == 0))
            .found(format!("{} MiB", bytes >> 20))
            .needed("none, or MemorySwapMax=0 in the unit")
            .why(
                "an idle connection's state is what the kernel swaps out first, and each wakes up \
                  with a read from disk",
            )
            .fix("swapoff -a", "swapon -a"),
    ]
}

/// Linux (seen: 6.18) lets nobody else filter what arrives at a listener of TCP.
pub(super) fn goodbyes(machine: &Machine, _: Question<'_>) -> Vec<Finding> {
    const AT: &str = "/etc/systemd/system/tidegate.service.d/goodbyes.conf";
    let may = machine.may_filter();
    vec![
        Finding::new("goodbyes", advice_unless(may))
            .found(if may { "CAP_NET_ADMIN" } else { "no CAP_NET_ADMIN" })
            .needed("CAP_NET_ADMIN, if nobody may be reset at the end of a drain")
            .why(
                "with it the listeners let nobody begin before they close; without it those who \
                 connect in the last moment of a drain, 8 of 552 seen, are reset and not told 503",
            )
            .fix(
                format!(
                    "mkdir -p /etc/systemd/system/tidegate.service.d && printf '[Service]\\n\
                     CapabilityBoundingSet=CAP_NET_ADMIN\\nAmbientCapabilities=CAP_NET_ADMIN\\n\
                     PrivateUsers=no\\n' >{AT} && systemctl daemon-reload (docker run --cap-add \
                     NET_ADMIN with user 0)"
                ),
                format!("rm {AT} && systemctl daemon-reload"),
            ),
    ]
}

#[cfg(test)]
mod tests {
    use super::is_in;

    #[test]
    fn ports_in_a_list() {
        assert!(is_in(8080, "8080") && is_in(8080, "1,8000-9000") && is_in(9000, "8000-9000"));
        assert!(!is_in(8080, "") && !is_in(8080, "8081,9000-9010") && !is_in(80, "8080"));
    }
}
