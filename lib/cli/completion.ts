import { Argument } from 'commander'
import { type Declare, run } from './options.js'
import { print } from './output.js'

/** Each asks this program, which knows its commands. A colon ends a word in bash, so that there the begun word is put together again. */
const SCRIPTS = {
  bash: `_vfio() {
  local line=\${COMP_LINE:0:COMP_POINT} words current candidate
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  current=\${words[-1]}
  COMPREPLY=()
  while IFS=$'\\t' read -r candidate _; do
    # What stands before the last colon stays as it is.
    [[ $current == *:* && $COMP_WORDBREAKS == *:* ]] && candidate=\${candidate#"\${current%:*}:"}
    COMPREPLY+=("$candidate")
  done < <(vfio __complete -- "\${words[@]:1}" 2>/dev/null)
  ((\${#COMPREPLY[@]})) || compopt -o default 2>/dev/null
}
complete -F _vfio vfio
`,
  zsh: `#compdef vfio
_vfio() {
  local -a found
  local word about
  while IFS=$'\\t' read -r word about; do
    found+=("\${word//:/\\\\:}\${about:+:$about}")
  done < <(vfio __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)
  if ((\${#found})); then _describe vfio found; else _files; fi
}
compdef _vfio vfio
`,
  fish: `function __vfio_complete
    set -l words (commandline -opc) (commandline -ct)
    vfio __complete -- $words[2..-1] 2>/dev/null
end
complete -c vfio -f -a '(__vfio_complete)'
`,
} as const

const SHELLS = Object.keys(SCRIPTS) as (keyof typeof SCRIPTS)[]

/** `vfio completion`: what makes a shell complete the words of this program. */
export const completion: Declare = (vfio) => {
  vfio
    .command('completion')
    .description('print what makes a shell complete commands, options, choices and addresses')
    .addArgument(new Argument('<shell>', 'whose').choices(SHELLS))
    .action(
      run((shell: keyof typeof SCRIPTS) => {
        print(SCRIPTS[shell])
        return 0
      }),
    )
}
