#compdef peerpodctl
# SPDX-License-Identifier: Apache-2.0
# zsh: completion of peerpodctl's commands, options and sandboxes; the program itself knows them.

local -a candidates

candidates=("${(@f)$("${words[1]}" complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
candidates=("${(@)candidates:#}")
if (( ${#candidates} )); then
        compadd -- "${(@)candidates}"
else
        _files
fi
