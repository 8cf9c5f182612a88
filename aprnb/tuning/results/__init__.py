"""What a run leaves behind: adapter, merged model, run folder."""
