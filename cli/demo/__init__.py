"""`atoll demo`: a coordinator and four peers, real processes on this machine, and what becomes of them.

`script.py` says what happens: who is started, who is killed and when, who joins. `children.py` owns the
processes, so that none outlives the demo. `swarm.py` asks them how they are and waits for them, always with
a deadline. `story.py` plays the script. `evidence.py` judges, purely, whether everything promised happened;
`results.py` makes the export, the text and the plot. Start reading with `story.py`.
"""
