//! Which process has a UDP port: the kernel names the socket's inode (`/proc/net/udp`), and each process's descriptors
//! name theirs (proc(5)).

use std::fs;
use std::path::Path;

/// "process 4711 (`name`)": whoever has a socket on the port in this thread's network namespace, as far as `/proc` lets
/// this process see.
pub fn port_holder(port: u16) -> Option<String> {
    let tables = ["udp", "udp6"].map(|name| Path::new("/proc/thread-self/net").join(name));
    let inodes = tables.iter().flat_map(|table| inodes(&fs::read_to_string(table).unwrap_or_default(), port));
    let sockets: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter(|process| !sockets.is_empty() && has(&process.path(), &sockets)).find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(format!("process {pid} (`{}`)", name.trim_end()))
    })
}

/// The inodes of the table's sockets on the port.
fn inodes(table: &str, port: u16) -> Vec<u64> {
    let inode = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (_, local) = columns.next()?.rsplit_once(':')?;
        (u16::from_str_radix(local, 16).ok()? == port).then(|| columns.nth(7)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn has(process: &Path, sockets: &[String]) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let mut targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn this_process_is_found_by_its_port_and_nobody_by_a_free_one() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = port_holder(port).unwrap();
        assert!(holder.starts_with(&format!("process {} (`", std::process::id())), "{holder}");
        // The discard service's, which nobody runs. A port that was in use may be another test's by now.
        assert_eq!(port_holder(9), None);
    }

    #[test]
    fn the_table_is_read_as_the_kernel_writes_it() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  190: 00000000:1151 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48213 2 0000000000000000 0
  191: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48214 2 0000000000000000 0
";
        assert_eq!(inodes(table, 4433), [48_213]);
        assert!(inodes(table, 4434).is_empty());
    }
}
