# bash completion for upscaled
_upscaled() {
  local IFS=$'\n' word words=() lines=()
  # bash splits a word at `=`: `--crop=top` is three words, and only the value is completed.
  for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
    [[ $word == '=' ]] || words+=("$word")
  done
  [[ ${COMP_WORDS[COMP_CWORD]} == '=' ]] && words+=('')
  mapfile -t lines < <("${COMP_WORDS[0]}" completion --words "${words[@]}" 2>/dev/null)
  COMPREPLY=()
  for word in "${lines[@]:1}"; do
    printf -v word %q "${word%%$'\t'*}"
    COMPREPLY+=("$word")
  done
  # If no word fits, readline completes file names.
  case ${lines[0]-files} in
    none) compopt +o default ;;
    folders) compopt +o default -o dirnames ;;
  esac
}
complete -o default -F _upscaled upscaled
