"""Named runs. A recipe is a function that returns a complete config; its docstring has command, cost and number.

`chiasm.recipes` is the table of them (`recipes.table`). This package imports nothing, so that `import chiasm` is quick.
"""
