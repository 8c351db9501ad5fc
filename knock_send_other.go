//go:build !linux

package main

import "errors"

func (r route) apply(int, bool) error {
	if r != (route{source: r.source}) {
		return errors.New("--interface and --ttl need Linux")
	}
	return nil
}
