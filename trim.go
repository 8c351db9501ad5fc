//go:build ignore

// Trim cuts off what stands behind the last segment of ELF files: the table of sections and their names, which no kernel
// reads (elf(5), load_elf_binary in fs/binfmt_elf.c). The linker puts it on a page of its own: up to 16 KB in a file for
// MIPS.
//
//	go run trim.go FILE ...
package main

import (
	"debug/elf"
	"fmt"
	"os"
)

// Where the ELF header of a 32-bit file says where the table of sections is, how many there are, and which has the names
// (elf(5), Elf32_Ehdr).
const (
	offShoff    = 32
	offShnum    = 48
	offShstrndx = 50
)

func main() {
	for _, path := range os.Args[1:] {
		if err := trim(path); err != nil {
			fmt.Fprintf(os.Stderr, "trimming %s: %v\n", path, err)
			os.Exit(1)
		}
	}
}

func trim(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	file, err := elf.NewFile(f)
	if err != nil {
		return err
	}
	if file.Class != elf.ELFCLASS32 {
		return fmt.Errorf("it is %v, not 32-bit", file.Class)
	}
	var end uint64
	for _, p := range file.Progs {
		end = max(end, p.Off+p.Filesz)
	}
	for _, field := range []struct{ off, size int64 }{{offShoff, 4}, {offShnum, 2}, {offShstrndx, 2}} {
		if _, err := f.WriteAt(make([]byte, field.size), field.off); err != nil {
			return err
		}
	}
	return f.Truncate(int64(end))
}
