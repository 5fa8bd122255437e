# What tuning/apply and tuning/irq have in common: root runs them, so they believe and write only what
# nobody but root (without root: but the caller) can have made. They source this file.
# shellcheck shell=bash

# The value in files, messages and comparisons is the same whatever the caller's locale, and what
# is written for a restart of the machine is nobody else's to change.
export LC_ALL=C
unset -v TMPDIR
umask 022

# die CODE MESSAGE
die() {
    printf '%s: %s\n' "$self" "$2" >&2
    exit "$1"
}

# Refuses PATH unless each directory on the way to it, and PATH itself, belongs to root or to the
# caller and can be written by nobody else, and none of them is a symbolic link. On the way a
# directory in which everybody may write counts if only owners may rename there (as in /tmp).
# What passes can be used by its name: nobody else can change what the name means.
require_trusted() {
    local path=$1 at='' part owner mode writable=no
    local -a parts
    [[ $path == /* ]] || path=$PWD/$path
    [[ $path != *[[:cntrl:]]* && /$path/ != */../* && /$path/ != */./* ]] ||
        die 1 "the path $(quoted "$path") has a control character, . or .. in it"
    IFS=/ read -ra parts <<<"$path"
    for part in '' "${parts[@]}"; do
        [[ -z $at || -n $part ]] || continue
        [[ $writable != yes ]] || die 1 "$(writable_by_others "$at" "$mode")"
        at=${at%/}/$part
        [[ ! -L $at ]] || die 1 "$(quoted "$at") is a symbolic link; name the place that it leads to"
        read -r owner mode < <(stat -c '%u %a' -- "$at") || die 1 "$(quoted "$at") cannot be looked at"
        ((owner == 0 || owner == EUID)) ||
            die 1 "$(quoted "$at") belongs to user $owner and not to root, so it is not believed"
        writable=no
        if ((8#$mode & 8#022)); then
            writable=yes
            if ((8#$mode & 8#1000)); then writable=sticky; fi
        fi
    done
    [[ $writable == no ]] || die 1 "$(writable_by_others "$at" "$mode")"
}

writable_by_others() {
    printf '%s can be written by others (mode %s), so it is not believed; if what it holds is right: chmod go-w %s' \
        "$(quoted "$1")" "$2" "$(quoted "$1")"
}

# Text that a terminal takes for text, whatever is in it.
quoted() { printf '%q' "$1"; }

# Makes the directory of the state file, for root alone, and what is missing on the way to it.
make_state_directory() {
    local directory existing
    directory=$(dirname -- "$state") existing=$directory
    # A link that leads nowhere is there, too.
    while [[ ! -e $existing && ! -L $existing ]]; do existing=$(dirname -- "$existing"); done
    require_trusted "$existing"
    (umask 077 && mkdir -p -- "$directory")
    require_trusted "$directory"
    if has_state; then require_state; fi
}

# Whether there is a state file, whatever it is.
has_state() { [[ -e $state || -L $state ]]; }

# Refuses a state file that another user can have written.
require_state() {
    require_trusted "$state"
    [[ -f $state ]] || die 1 "$(quoted "$state") is not a regular file, so it is not believed"
}

# Refuses the state file for its line number $1, which is $2.
refuse_line() {
    die 1 "line $1 of $(quoted "$state") is $(quoted "$2"), which this never writes; nothing was changed"
}

# Adds a line to the state file, which the caller has looked at.
remember() { (umask 077 && printf '%s\n' "$1" >>"$state"); }

# Says of FILE..., in which version 0.1 kept its state, that it is not read: the service's user can
# have written it. Succeeds if one is there.
has_untrusted_state() {
    local file found=1
    for file; do
        [[ -e $file || -L $file ]] || continue
        found=0
        printf '%s: %s is the state of version 0.1, in a directory of the user that the service runs as, who can have written anything there; it is not believed. Look at it (cat -v), set by hand what is right, and remove it\n' \
            "$self" "$(quoted "$file")" >&2
    done
    return $found
}
