"""Images of boxes in the manner of NLVR, with statements whose truth a program determines."""
