//go:build !linux

package main

func refusedWords() string { return "closed (refused)" }
