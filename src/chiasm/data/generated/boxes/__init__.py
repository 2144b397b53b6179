"""Images of boxes in the manner of NLVR, with statements that a program can judge."""
