# shellcheck shell=bash
# Shared by the scripts: messages for the user, packages of the host, and Debian packages
# taken from a package list of our own. Sourced, not run.

PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=$top/target/cache
mkdir -p "$cache"

# Messages for people go to stderr; stdout has the script's result.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit "${die_status:-1}"; }

# The comment at the head of the script is its help.
usage() { sed -n '2,/^[^#]/{ s/^# \{0,1\}//p }' "$0"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

host_apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2
}

# need COMMAND=PACKAGE...: installs the packages of the commands that this host lacks.
need() {
    local pair missing=()
    for pair; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "this host has no apt-get: install ${missing[*]} and run again"
    if [ "$(id -u)" = 0 ]; then
        say "installing ${missing[*]}"
    else
        command -v sudo >/dev/null || die "no sudo found: as root, apt-get install ${missing[*]}, and run again"
        say "installing ${missing[*]} with sudo"
    fi
    host_apt_get install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return
    host_apt_get update || say "apt-get update had errors; trying to install anyway"
    host_apt_get install --no-install-recommends "${missing[@]}" >/dev/null ||
        die "could not install ${missing[*]}: repair apt, or install them yourself, and run again"
}

# locked FILE: holds FILE's lock until this process ends or calls `unlock`.
locked() {
    exec 9>"$1"
    flock -n 9 || { say "waiting for another run with the same preparation"; flock 9; }
}
unlock() { exec 9>&-; }

# The Debian archive this host's apt uses already, or $DEBIAN_MIRROR; fails when there is none.
debian_mirror() {
    [ -z "${DEBIAN_MIRROR:-}" ] || { echo "$DEBIAN_MIRROR"; return; }
    command -v apt-get >/dev/null || return 1
    local uri
    uri=$(known_debian_archive)
    if [ -z "$uri" ] && ! apt_lists_known; then
        say "apt has no package lists yet: apt-get update"
        host_apt_get update || true
        uri=$(known_debian_archive)
    fi
    case $uri in
    '') return 1 ;;
    mirror+file:*) uri=$(awk '!/^#/ && NF { print $1; exit }' "${uri#mirror+file:}") ;;
    esac
    echo "${uri%/}"
}
known_debian_archive() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '$1 == "Debian" && $2 == "Debian" && !seen++ { print $3 }'
}
apt_lists_known() {
    apt-get indextargets --format '$(ORIGIN)' 'Created-By: Packages' | grep -q .
}

# runs ARCH: programs of this Debian architecture run here, where need be by qemu, which the kernel
# starts for them (binfmt_misc; in every chroot and container too, by the flag F).
runs() {
    local formats=/proc/sys/fs/binfmt_misc
    [ "$1" != "$(dpkg --print-architecture)" ] || return 0
    [ "$1" = arm64 ] || die "this host cannot run programs for $1"
    need qemu-aarch64-static=qemu-user-static
    [ -e $formats/register ] || as_root mount -t binfmt_misc binfmt_misc $formats || die "this kernel has no binfmt_misc"
    [ ! -e $formats/qemu-aarch64 ] || return 0
    # Magic and mask of a 64-bit little-endian ELF program for EM_AARCH64 (183).
    printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' |
        as_root tee $formats/register >/dev/null
}

# The keys that sign Debian's archive, in a file that Ubuntu has as a package too.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
need_keyring() { [ -e "$keyring" ] || need "$keyring=debian-archive-keyring"; }

# apt_from SUITE: makes the array `apt_options`, with which apt-get and apt-cache see only that
# Debian suite (for $deb_arch), with lists and caches of their own; for SUITE `host`, the
# host's own. The host's sources stay as they are, its proxy settings apply.
deb_arch=amd64
apt_from() {
    # Downloads go into a cache that need not be open to apt's own user.
    apt_options=(-o "APT::Sandbox::User=$(id -un)")
    [ "$1" != host ] || return 0
    local root=$cache/apt/$1 mirror
    [ $deb_arch = amd64 ] || root=$root-$deb_arch
    need_keyring
    apt_options+=(
        -o "Dir::State=$root/state" -o "Dir::State::status=$root/status" -o "Dir::Cache=$root/cache"
        -o "Dir::Etc::SourceList=$root/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
        -o "APT::Architecture=$deb_arch" -o "APT::Architectures=$deb_arch" -o Acquire::Languages=none
    )
    [ ! -e "$root/complete" ] || return 0
    mirror=$(debian_mirror) || { say "apt has no Debian mirror"; return 1; }
    mkdir -p "$root/state/lists/partial" "$root/cache/archives/partial"
    : >"$root/status"
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$root/sources.list"
    say "reading the package list of Debian $1"
    apt-get -qq "${apt_options[@]}" -o APT::Update::Error-Mode=any update >"$root/log" 2>&1 || {
        cat "$root/log" >&2
        return 1
    }
    : >"$root/complete"
}

# fetch SUITE DIR PACKAGE[=VERSION]...: downloads the .deb files into DIR, installs nothing.
fetch() {
    local suite=$1 dir=$2
    shift 2
    mkdir -p "$dir"
    apt_from "$suite" || return 1
    (cd "$dir" && apt-get -qq "${apt_options[@]}" download "$@" >&2) && return
    say "not found by the present package list; reading it again"
    if [ "$suite" = host ]; then
        host_apt_get update || true
    else
        rm -f "$cache/apt/$suite"{,-arm64}/complete
        apt_from "$suite" || return 1
    fi
    (cd "$dir" && apt-get -qq "${apt_options[@]}" download "$@" >&2)
}
