// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Accounts} from "../Accounts.sol";

/// @notice Purses that are made, filled, emptied and expire, by their owners and by others.
abstract contract PurseActions is Accounts {
    uint256 private constant MOST_PURSES = 6;

    uint64 private _lastPurse;

    /// @dev A new purse; or one that is there, of nobody, or expired.
    function createPurse(uint256 seed) external acting(seed) {
        address owner = buyers[_draw(BUYERS)];
        address runner = _once(3) ? buyers[_draw(BUYERS)] : operator;
        uint64 salt = ++_lastPurse;
        uint40 expiry = !_once(3) ? type(uint40).max : uint40(vm.getBlockTimestamp() + _draw(5 hours));
        uint256 amount = _once(4) ? 0 : _draw(_balances[owner] / 2 + 2);
        uint256 flaw = _purses.length >= MOST_PURSES ? _draw(3) : _draw(12);
        if (flaw == 0) {
            runner = address(0);
        } else if (flaw == 1) {
            expiry = uint40(vm.getBlockTimestamp() - 1);
        } else if (flaw == 2 && _purses.length > 0) {
            KnownPurse storage old = _purses[_draw(_purses.length)];
            (owner, runner, salt) = (old.owner, old.operator, old.salt);
        }
        address account = ESCROW.purseOf(owner, runner, salt);
        bool may = flaw > 1 && !_isPurse(account) && amount <= _balances[owner];
        if (may) {
            _purses.push(KnownPurse(account, owner, runner, salt, expiry, amount, 0, 0));
            _purseIndexes[account] = _purses.length;
            _admit(account);
            if (amount > 0) _give(owner, account, amount);
        }
        _do("createPurse", may, owner, abi.encodeCall(ESCROW.createPurse, (runner, salt, expiry, amount)));
    }

    /// @dev Any purse, or an account that is none.
    function _somePurse() private returns (address account, address owner, address sender) {
        account = _once(12) || _purses.length == 0 ? _anyone() : _purses[_draw(_purses.length)].account;
        owner = _isPurse(account) ? _purse(account).owner : address(0);
        sender = _once(4) || owner == address(0) ? _anyone() : owner;
        if (_isPurse(account) && _once(8)) sender = _purse(account).operator;
    }

    function fundPurse(uint256 seed) external acting(seed) {
        (address account, address owner, address sender) = _somePurse();
        uint256 amount = _draw(_balances[sender] / (_once(6) ? 1 : 4) + 2);
        bool may = sender == owner && amount > 0 && amount <= _balances[sender];
        if (may) {
            _give(owner, account, amount);
            _purse(account).put += amount;
        }
        _do("fundPurse", may, sender, abi.encodeCall(ESCROW.fundPurse, (account, amount)));
    }

    /// @dev What is free in it, in part, all of it, or more: for its owner, whether it has expired or not.
    function sweepPurse(uint256 seed) external acting(seed) {
        (address account, address owner, address sender) = _somePurse();
        uint256 amount = _once(4) ? _balances[account] : _draw(_balances[account] / (_once(6) ? 1 : 4) + 2);
        bool may = sender == owner && amount > 0 && amount <= _balances[account];
        if (may) {
            _give(account, owner, amount);
            _purse(account).swept += amount;
        }
        _do("sweepPurse", may, sender, abi.encodeCall(ESCROW.sweepPurse, (account, amount)));
    }

    /// @dev Brought forward alone. Mostly by little, so that purses live.
    function expirePurse(uint256 seed) external acting(seed) {
        (address account, address owner, address sender) = _somePurse();
        uint40 present = owner == address(0) ? 0 : _purse(account).expiry;
        uint40 expiry = present > 0 ? present - uint40(_draw(3)) : 0;
        if (_once(24)) expiry = uint40(vm.getBlockTimestamp() + _draw(3 hours));
        bool may = sender == owner && expiry < present;
        if (may) _purse(account).expiry = expiry;
        _do("expirePurse", may, sender, abi.encodeCall(ESCROW.expirePurse, (account, expiry)));
    }

    /// @dev Two calls in one, of an owner: both happen, or neither.
    function multicall(uint256 seed) external acting(seed) {
        if (_purses.length == 0) return;
        KnownPurse storage purse = _purses[_draw(_purses.length)];
        (uint256 has, uint256 owners) = (_balances[purse.account], _balances[purse.owner]);
        uint256 taken = _draw(has + 2);
        uint256 back = _draw(owners + taken + 2);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(ESCROW.sweepPurse, (purse.account, taken));
        calls[1] = abi.encodeCall(ESCROW.fundPurse, (purse.account, back));
        bool may = taken > 0 && taken <= has && back > 0 && back <= owners + taken;
        if (may) {
            _give(purse.account, purse.owner, taken);
            _give(purse.owner, purse.account, back);
            (purse.swept, purse.put) = (purse.swept + taken, purse.put + back);
        }
        _do("multicall", may, purse.owner, abi.encodeCall(ESCROW.multicall, (calls)));
    }
}
