#compdef upscaled
_upscaled() {
  local line
  local -a lines found
  lines=("${(@f)$(${~words[1]} completion --words "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
  [[ $PREFIX == --*=* ]] && compset -P '*='
  for line in "${(@)lines[2,-1]}"; do
    found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  (( $#found )) && _describe argument found
  case $lines[1] in
    files) _files ;;
    folders) _files -/ ;;
  esac
}
if [[ $zsh_eval_context == *func ]]; then
  _upscaled "$@"
else
  compdef _upscaled upscaled
fi
