//! The words of questions, in the order of the numbers that the kernel gives them.

use crate::profile::{nearest, quoted};

/// `include/uapi/linux/capability.h`
pub(super) const CAPABILITIES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid \
    setuid setpcap linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock \
    ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice \
    sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override \
    mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore";

/// AF_… in `include/linux/socket.h`
pub(super) const FAMILIES: &str = "unspec unix inet ax25 ipx appletalk netrom bridge atmpvc x25 inet6 \
    rose decnet netbeui security key netlink packet ash econet atmsvc rds sna irda pppox wanpipe llc \
    ib mpls can tipc bluetooth iucv rxrpc isdn phonet ieee802154 caif alg nfc vsock kcm qipcrtr smc \
    xdp mctp";

/// SOCK_… in `include/linux/net.h`
pub(super) const SOCKETS: &str = "unspec stream dgram raw rdm seqpacket dccp";

/// AppArmor's own numbers, from 0 on (`security/apparmor/include/sig_names.h`)
pub(super) const SIGNALS: &str = "unknown hup int quit ill trap abrt bus fpe kill usr1 segv usr2 pipe \
    alrm term stkflt chld cont stop stp ttin ttou urg xcpu xfsz vtalrm prof winch io pwr sys emt lost \
    unused exists";

/// The questions, split at `;`. Those of files may have `owner` in front.
pub(super) const FORMS: &str = "read PATH; write PATH; append PATH; exec PATH; create PATH; delete PATH; \
    lock PATH; mmap PATH; link PATH TARGET; capability NAME; network FAMILY TYPE; \
    signal send|receive SIGNAL PEER; ptrace read|trace|readby|tracedby PEER; userns";

/// The place of `word` among `words`.
///
/// # Errors
/// The nearest of them, or all.
pub(super) fn number(words: &str, word: &str) -> Result<u8, String> {
    let mut places = (0..).zip(words.split(' '));
    let place = places.find(|(_, known)| *known == word);
    place.map(|(place, _)| place).ok_or_else(|| {
        let shown = quoted(word);
        match nearest(word, words.split(' ')) {
            Some(near) => format!("unknown word {shown}: did you mean {near}?"),
            None => format!("unknown word {shown}: give one of {words}"),
        }
    })
}
