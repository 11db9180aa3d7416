"""What runs outside the trainer's process: the server, the examiner and the candidate. Only the standard library is used."""
