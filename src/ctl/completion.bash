# SPDX-License-Identifier: Apache-2.0
# bash: completion of peerpodctl's commands, options and sandboxes; the program itself knows them.

_peerpodctl() {
        local IFS=$'\n'

        COMPREPLY=($("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}

complete -o default -F _peerpodctl peerpodctl
