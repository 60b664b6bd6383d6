# tcsh completion for upscaled: file names, except at these places
complete upscaled \
  'c/-/`upscaled completion --line "$COMMAND_LINE"`/' \
  'n/{bench,completion,models,pull,schema,verify}/`upscaled completion --line "$COMMAND_LINE"`/' \
  'n/{-f,-n,--crop,--format,--method,--model,--paper}/`upscaled completion --line "$COMMAND_LINE"`/' \
  'p/1/`upscaled completion --line "$COMMAND_LINE"`/' \
  'p/*/f/'
