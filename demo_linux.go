package main

func demo(e env, name string, args []string) error { return nil }
