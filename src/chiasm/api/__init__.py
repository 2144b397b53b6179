"""What the command line and Python both call: a recipe or files -> a trained run; a run -> scores, or other layouts."""
