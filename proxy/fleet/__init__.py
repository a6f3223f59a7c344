"""The workers known now, what each can answer, how much each has to do. Pure: time and randomness are arguments."""
