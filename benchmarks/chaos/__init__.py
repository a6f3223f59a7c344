"""A gateway in front of workers that are killed, stopped and made to fail, under load; every answer is checked."""
